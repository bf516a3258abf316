"""The command `jmamba train`: train a byte-level model, measure it, write its card."""

import shlex
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jmamba.checkpoints import convert
from jmamba.models.mamba.config import MambaConfig
from jmamba.models.mamba.model import MambaLM
from jmamba.training.bits_per_byte import bits_per_byte
from jmamba.training.card import Result, write_card
from jmamba.training.data import read_bytes, split_bytes
from jmamba.training.loop import StepReport, TrainConfig, new_model, train

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
    data: Annotated[Path, typer.Argument(help="Text file, plain or .gz: enwik8.gz.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the model.")],
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
) -> None:
    """Train a byte-level model on a text file and measure it on the file's end.

    The first 90 % are trained on, the last 5 % measured. Run again with the same
    options to go on after an interruption.
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
    if (out / "model").exists():
        raise ValueError(f"{out / 'model'} is there already; give another --out.")
    command = shlex.join(
        f"jmamba train {data.name} --out {out.name} --d-model {d_model} --num-layers "
        f"{num_layers} --d-state {d_state} --steps {steps} --batch {batch} --length "
        f"{length} --learning-rate {learning_rate} --warmup {warmup} --weight-decay "
        f"{weight_decay} --seed {seed} --dtype {dtype} "
        f"{_definite_options(config)}".split()
    )
    splits = split_bytes(read_bytes(data))
    with _bars() as bars:
        model = train(
            new_model(config, seed),
            splits.train,
            settings,
            directory=out / "state",
            report=_Reporter(bars, settings, out),
        )
        exact = out / "model-float32"
        model.save_pretrained(exact, tokenizer="bytes", overwrite=True)
        convert(str(exact), out / "model", format="hf", dtype=dtype)
        stored = MambaLM.from_pretrained(out / "model")
        bits = _measure(bars, stored, splits.test)
    size = len(splits.train), len(splits.test)
    result = Result(data.name, size, command, settings, bits)
    write_card(out / "model", config, result)
    Console().print(
        f"{bits:.3f} bits per byte on the last {size[1]:,} bytes of {data.name}. "
        f"Try: jmamba explain 'some text' --model {out / 'model'}"
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

    def __init__(self, bars: Progress, settings: TrainConfig, out: Path):
        self.bars, self.start, self.tokens, self.mean = bars, time.time(), 0, None
        self.tokens_per_step = settings.batch * settings.length
        self.task = bars.add_task("training", total=settings.steps, figures="")
        out.mkdir(parents=True, exist_ok=True)
        self.file = out / "losses.csv"

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
        with self.file.open("a") as file:
            file.write(f"{report.step},{report.loss:.6f}\n")


def _measure(bars: Progress, model: MambaLM, test) -> float:
    task = bars.add_task("measuring", total=len(test), figures="")

    def show(done: int, total: int, bits: float) -> None:
        bars.update(task, completed=done, total=total, figures=f"{bits:.3f} bits/byte")

    return bits_per_byte(model, test, report=show)
