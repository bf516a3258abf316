"""What `jmamba train` does: check, train, store, measure, and write the card."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import typer
from rich.console import Console
from rich.progress import Progress

from jmamba.checkpoints import convert
from jmamba.commands.best_model import BEST, BestModel
from jmamba.commands.corpora import TrainingCorpus, open_corpus
from jmamba.commands.processes import is_first_process
from jmamba.commands.settings_files import options_text
from jmamba.commands.signals import Terminated, resumable
from jmamba.commands.step_reports import (
    EVENTS,
    check_tensorboard,
    ignore_step,
    reporting,
    training_bars,
)
from jmamba.files.dtypes import check_dtype
from jmamba.files.exchange import is_hidden, write_file
from jmamba.files.folders import check_destination, new_folder, write_json
from jmamba.layers.stack import Remat
from jmamba.models.architecture import architecture_of
from jmamba.models.mamba.config import MambaConfig
from jmamba.models.sharding import Sharding
from jmamba.models.vim.config import VimConfig
from jmamba.planning.utilisation import KINDS, find_peak
from jmamba.training.card import Result, write_card
from jmamba.training.config import TrainConfig
from jmamba.training.interrupts import Preempted
from jmamba.training.language import new_model
from jmamba.training.memory import check_training_memory
from jmamba.training.metrics import METRICS
from jmamba.training.processes import all_agree, gather_model
from jmamba.training.settings import read_run_settings

STATE, EXACT, MODEL = "state", "model-float32", "model"
"""Folders that are written: states on the way, the trained model, and as it is stored.
"""

OPTIONS, CONFIG = "config.toml", "config.json"
"""Files of a run's options, and of its model's configuration."""


class TrainRun(NamedTuple):
    """What `jmamba train` was asked for.

    Attributes:
      data: text file, or folder of tokenized texts or of pictures.
      out: folder of the run.
      config: of the model.
      settings: of the training.
      mesh: as `Sharding.parse` reads it; None for one device.
      compute: dtype of activations.
      remat: what the backward pass computes again.
      dtype: of stored weights.
      extend: whether a run may go on to more steps.
      tensorboard: whether to write files for TensorBoard.
      options: all of these, by the names of options.
      command: what to type to make the model again.
    """

    data: Path
    out: Path
    config: MambaConfig | VimConfig
    settings: TrainConfig
    mesh: str | None
    compute: str
    remat: Remat
    dtype: str
    extend: bool
    tensorboard: bool
    options: dict[str, Any]
    command: str

    @property
    def sharding(self) -> Sharding | None:
        """Where the model and its batches lie."""
        return None if self.mesh is None else Sharding.parse(self.mesh)


def run_training(run: TrainRun) -> None:
    """Train a model, store it, measure it and write its card.

    Of several processes all train, and the first one writes and speaks.

    Raises:
      ValueError: something is wrong with what was asked for.
    """
    corpus = _check(run)
    with _ending_well(), training_bars(is_shown=is_first_process()) as bars:
        with _advising(run):
            model = gather_model(_train(run, corpus, bars))
        found = None if model is None else _store(run, model, corpus, bars)
        all_agree(True)  # the others wait until it is measured
    if found is not None:
        Console().print(_tell(run, corpus, found), soft_wrap=True)


def _tell(run: TrainRun, corpus: TrainingCorpus, found: float) -> str:
    """Return what came out, in a sentence, and what to type next."""
    unit, (_, test), model = corpus.unit, corpus.sizes, run.out / MODEL
    if corpus.has_pictures:
        said = f"{100 * found:.1f} % of {test:,} {unit}s that were held out are right."
        return f"{said} Try: jmamba explain PICTURE.png --model {model}"
    said = (
        f"{found:.3f} bits per {unit} on the last {test:,} {unit}s of {run.data.name}."
    )
    return f"{said} Try: jmamba explain 'some text' --model {model}"


@contextmanager
def _ending_well() -> Iterator[None]:
    """Let SIGTERM exit with 0: what is done is kept."""
    try:
        with resumable():
            yield
    except (Terminated, Preempted) as error:
        Console(stderr=True).print(f"Ended by SIGTERM; {error}")
        raise typer.Exit(0) from error


@contextmanager
def _advising(run: TrainRun) -> Iterator[None]:
    """Say where memory does not suffice what tells how much would."""
    try:
        yield
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        write_config = architecture_of(run.config).write_config
        assert write_config is not None
        write_json(run.out / CONFIG, write_config(run.config, dtype="float32"))
        device = jax.devices()[0].device_kind
        topology = f"{KINDS[device]}:SHAPE" if device in KINDS else "cpu:8"
        lighter = "Try --remat full, --accumulate 2 or a --mesh with more fsdp."
        raise ValueError(
            f"The memory does not suffice: {str(error).splitlines()[0][:200]}. "
            f"{lighter} What fits is said by jmamba plan --model {run.out} --topology "
            f"{topology} --batch {run.settings.batch} --length {run.settings.length}"
        ) from error


def _check(run: TrainRun) -> TrainingCorpus:
    """Return what there is to train on, if all that was asked for can be."""
    check_dtype(run.dtype)
    check_dtype(run.compute)
    check_tensorboard(run.tensorboard)
    check_out(run.out, extend=run.extend)
    sharding, settings = run.sharding, run.settings
    reads_pictures = isinstance(run.config, VimConfig)
    if sharding is not None:
        sharding.check(run.config)
        sharding.check_batch(settings.batch, 0 if reads_pictures else settings.length)
    if isinstance(run.config, MambaConfig):
        devices = 1 if sharding is None else sharding.mesh.size
        check_training_memory(run.config, settings, devices=devices)
    return open_corpus(run.data, run.config, settings)


def _train(run: TrainRun, corpus: TrainingCorpus, bars: Progress) -> Any:
    settings, sharding = run.settings, run.sharding
    devices = jax.devices()[:1] if sharding is None else sharding.mesh.devices.flatten()
    peak = find_peak(run.config, settings.batch, settings.length, list(devices))

    def begin() -> None:  # nobody refused the run
        write_file(run.out / OPTIONS, options_text(run.options, run.command))

    with ExitStack() as stack:
        report = ignore_step
        if is_first_process():
            report = stack.enter_context(
                reporting(
                    run.out, settings, bars=bars, unit=corpus.unit,
                    in_step=corpus.in_step, tensorboard=run.tensorboard, peak=peak,
                    begin=begin,
                )
            )  # fmt: skip
        return corpus.train(
            new_model(
                run.config, settings.seed, dtype=run.compute, remat=run.remat,
                sharding=sharding,
            ),
            config=settings,
            sharding=sharding,
            directory=run.out / STATE,
            report=report,
            extend=run.extend,
            keep=BestModel(run.out, corpus.tokenizer),
        )  # fmt: skip


def _store(run: TrainRun, model: Any, corpus: TrainingCorpus, bars: Progress) -> float:
    """Store a model, and return how well it predicts what was held out."""
    exact = run.out / EXACT
    model.save_pretrained(exact, tokenizer=corpus.tokenizer, overwrite=True)
    # The card comes with the model, so that what is there is finished.
    with new_folder(run.out / MODEL, overwrite=True) as folder:
        convert(str(exact), folder, format="hf", dtype=run.dtype)
        found = _measure(bars, type(model).from_pretrained(folder), corpus)
        begun = tuple((read_run_settings(run.out / STATE) or {}).get("extended", ()))
        result = Result(
            run.data.name, corpus.sizes, run.command, run.settings, found, begun,
            corpus.unit, corpus.measured,
        )  # fmt: skip
        write_card(folder, run.config, result)
    return found


def _measure(bars: Progress, model: Any, corpus: TrainingCorpus) -> float:
    task = bars.add_task("measuring", total=corpus.sizes[1], figures="")

    def show(done: int, total: int, found: float) -> None:
        said = (
            f"{found:.1%} right"
            if corpus.has_pictures
            else (f"{found:.3f} bits/{corpus.unit}")
        )
        bars.update(task, completed=done, total=total, figures=said)

    return corpus.measure(model, report=show)


def check_out(out: Path, *, extend: bool) -> None:
    """Raise unless a model may be trained into a folder.

    Raises:
      ValueError: it holds a trained model or other files, or cannot be written.
    """
    try:
        for name in (MODEL, EXACT, BEST):
            check_destination(out / name, overwrite=True)
        there = sorted(path.name for path in out.iterdir()) if out.exists() else []
    except OSError as error:
        raise ValueError(
            f"Cannot write to {out}: {error.strerror}. Name another folder with --out."
        ) from error
    if (out / MODEL / "README.md").exists() and not extend:
        raise ValueError(
            f"{out / MODEL} is there already, and trained to its end; name another "
            "folder with --out, or give --extend and more --steps to go on."
        )
    known = (STATE, EXACT, MODEL, BEST, METRICS, OPTIONS, CONFIG, EVENTS)
    foreign = [name for name in there if name not in known and not is_hidden(name)]
    if foreign:
        raise ValueError(
            f"{out} holds files that are not of training: {', '.join(foreign[:5])}. "
            "Name a new folder with --out."
        )
