"""The command `jmamba train`: train a byte-level model, measure it, write its card."""

import shlex
import time
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jmamba.checkpoints import convert
from jmamba.commands.signals import resumable
from jmamba.files.dtypes import check_dtype
from jmamba.files.exchange import is_hidden
from jmamba.files.folders import check_destination, new_folder
from jmamba.files.untrusted import as_path
from jmamba.models.mamba.config import MambaConfig
from jmamba.models.mamba.model import MambaLM
from jmamba.training.bits_per_byte import bits_per_byte, bytes_per_stream
from jmamba.training.card import Result, write_card
from jmamba.training.data import check_windows, read_bytes, split_bytes
from jmamba.training.loop import StepReport, TrainConfig, new_model, train
from jmamba.training.losses import LOSSES, LossLog
from jmamba.training.memory import check_training_memory
from jmamba.training.settings import read_run_settings

STATE, EXACT, MODEL = "state", "model-float32", "model"
"""Folders that are written: states on the way, the trained model, and as it is stored.
"""

SMOOTHING = 0.98
"""Weight of the past in the running mean of the loss that the bar shows."""


class Definite(StrEnum):
    """What `--definite` may be: the choices of `models.definite`."""

    free = "free"
    pos = "pos"
    neg = "neg"
    mixed = "mixed"
    psd_general = "psd_general"
    nsd_general = "nsd_general"


def train_command(
    data: Annotated[
        Path,
        typer.Argument(
            help="Text file, plain or .gz: enwik8.gz.",
            parser=as_path,
            metavar="DATA",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for checkpoints and the model.",
            parser=as_path,
            metavar="PATH",
        ),
    ],
    d_model: Annotated[int, typer.Option(help="Width of the residual stream.")] = 256,
    num_layers: Annotated[int, typer.Option(help="Number of blocks.")] = 6,
    d_state: Annotated[int, typer.Option(help="States per channel.")] = 16,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 6400,
    batch: Annotated[int, typer.Option(help="Sequences per step.")] = 4,
    length: Annotated[int, typer.Option(help="Bytes per sequence.")] = 320,
    learning_rate: Annotated[float, typer.Option(help="Peak of the cosine.")] = 3e-3,
    warmup: Annotated[int, typer.Option(help="Steps of linear rise.")] = 200,
    weight_decay: Annotated[float, typer.Option(help="Of projections.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of weights and data order.")] = 0,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 250,
    dtype: Annotated[str, typer.Option(help="Of the stored weights.")] = "bfloat16",
    definite: Annotated[
        Definite, typer.Option(help="Signs of the eigenvalues of S_C^T S_B.")
    ] = Definite.free,
    definite_threshold: Annotated[
        float | None,
        typer.Option(help="Least magnitude; the official one if left out."),
    ] = None,
    equal_magnitudes: Annotated[
        bool,
        typer.Option(
            "--equal-magnitudes", help="Give mixed signs the threshold of the others."
        ),
    ] = False,
    extend: Annotated[
        bool,
        typer.Option("--extend", help="Go on with a run of fewer steps."),
    ] = False,
) -> None:
    """Train a byte-level model on a text file and measure it on the file's end.

    The first 90 % are trained on, the last 5 % measured. Run again with the same
    options to go on after an interruption; other options are refused, but more steps
    with --extend are not.
    """
    settings = TrainConfig(
        steps, batch, length, learning_rate, warmup, weight_decay, seed, save_every
    )
    config = MambaConfig(
        vocab_size=256,
        d_model=d_model,
        num_layers=num_layers,
        d_state=d_state,
        definite=definite.value,
        definite_threshold=definite_threshold,
        equal_magnitudes=equal_magnitudes,
    )
    check_dtype(dtype)
    check_out(out, extend=extend)
    check_training_memory(config, settings)
    splits = split_bytes(read_bytes(data))
    check_windows(len(splits.train), length)
    bytes_per_stream(len(splits.test))
    size = len(splits.train), len(splits.test)
    command = _command(data, out, config, settings, dtype)
    with resumable(), _bars() as bars:
        losses = LossLog(out / LOSSES)
        with closing(losses):
            model = train(
                new_model(config, seed),
                splits.train,
                settings,
                directory=out / STATE,
                report=_Reporter(bars, settings, losses),
                extend=extend,
            )
        exact = out / EXACT
        model.save_pretrained(exact, tokenizer="bytes", overwrite=True)
        # The card comes with the model, so that what is there is finished.
        with new_folder(out / MODEL, overwrite=True) as folder:
            convert(str(exact), folder, format="hf", dtype=dtype)
            stored = MambaLM.from_pretrained(folder)
            bits = _measure(bars, stored, splits.test)
            begun = tuple((read_run_settings(out / STATE) or {}).get("extended", ()))
            result = Result(data.name, size, command, settings, bits, begun)
            write_card(folder, config, result)
    Console().print(
        f"{bits:.3f} bits per byte on the last {size[1]:,} bytes of {data.name}. "
        f"Try: jmamba explain 'some text' --model {out / MODEL}"
    )


def check_out(out: Path, *, extend: bool) -> None:
    """Raise unless a model may be trained into a folder.

    Raises:
      ValueError: it holds a trained model or other files, or cannot be written.
    """
    try:
        for name in (MODEL, EXACT):
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
    known = (STATE, EXACT, MODEL, LOSSES)
    foreign = [name for name in there if name not in known and not is_hidden(name)]
    if foreign:
        raise ValueError(
            f"{out} holds files that are not of training: {', '.join(foreign[:5])}. "
            "Name a new folder with --out."
        )


def _command(data: Path, out: Path, config, settings: TrainConfig, dtype: str) -> str:
    """Return what to type to make a model again."""
    return shlex.join(
        f"jmamba train {data.name} --out {out.name} --d-model {config.d_model} "
        f"--num-layers {config.num_layers} --d-state {config.d_state} --steps "
        f"{settings.steps} --batch {settings.batch} --length {settings.length} "
        f"--learning-rate {settings.learning_rate} --warmup {settings.warmup} "
        f"--weight-decay {settings.weight_decay} --seed {settings.seed} --dtype "
        f"{dtype} {_definite_options(config)}".split()
    )


def _definite_options(config: MambaConfig) -> str:
    """Return what to type for the gates of a configuration, nothing for free ones."""
    options = []
    if config.definite != "free":
        options.append(f"--definite {config.definite}")
    if config.definite_threshold is not None:
        options.append(f"--definite-threshold {config.definite_threshold}")
    if config.equal_magnitudes:
        options.append("--equal-magnitudes")
    return " ".join(options)


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,}/{task.total:,} {task.fields[figures]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


class _Reporter:
    """Shows a step's loss on the bar and appends it to losses.csv."""

    def __init__(self, bars: Progress, settings: TrainConfig, losses: LossLog):
        self.bars, self.start, self.tokens, self.mean = bars, time.time(), 0, None
        self.tokens_per_step = settings.batch * settings.length
        self.task = bars.add_task("training", total=settings.steps, figures="")
        self.losses = losses

    def __call__(self, report: StepReport) -> None:
        bits = report.bits_per_token
        if self.mean is None:
            self.mean = bits
        self.mean = SMOOTHING * self.mean + (1 - SMOOTHING) * bits
        self.tokens += self.tokens_per_step
        speed = self.tokens / (time.time() - self.start)
        figures = (
            f"loss {report.loss:.3f}, {self.mean:.3f} bits/byte, {speed:,.0f} tokens/s"
        )
        self.bars.update(self.task, completed=report.step, figures=figures)
        self.losses.append(report.step, report.loss)


def _measure(bars: Progress, model: MambaLM, test) -> float:
    task = bars.add_task("measuring", total=len(test), figures="")

    def show(done: int, total: int, bits: float) -> None:
        bars.update(task, completed=done, total=total, figures=f"{bits:.3f} bits/byte")

    return bits_per_byte(model, test, report=show)
