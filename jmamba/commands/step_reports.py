"""What a step measured: on the terminal, in a file, and for TensorBoard."""

import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jmamba.planning.utilisation import Peak
from jmamba.training.config import TrainConfig
from jmamba.training.metrics import METRICS, MetricsLog
from jmamba.training.reports import StepReport

SMOOTHING = 0.98
"""Weight of the past in the running mean of the loss that the bar shows."""

EVENTS = "tensorboard"
"""Folder of TensorBoard's files."""


class StepReporter:
    """Shows what a step measured on a bar, and writes it down.

    Tokens a second, and what they are of the devices' peak, are of the last step.

    Args:
      bars: to show it on.
      settings: of the run.
      log: where to write it.
      events: of tensorboardX, or None.
      peak: what the devices could do at best, None if that is not known.
      unit: what a token is called.
      in_step: tokens of a step.
      begin: called before the first step is written down.
    """

    def __init__(
        self,
        bars: Progress,
        settings: TrainConfig,
        log: MetricsLog,
        events: Any,
        *,
        peak: Peak | None,
        unit: str,
        in_step: int,
        begin: Callable[[], None],
    ):
        self.bars, self.log, self.events, self.unit = bars, log, events, unit
        self.begin = begin
        self.counted = "picture" if unit == "picture" else "token"
        self.in_step, self.peak = in_step, peak
        self.task = bars.add_task("training", total=settings.steps, figures="")
        self.mean, self.before = None, time.perf_counter()

    def __call__(self, report: StepReport) -> None:
        """Take what a step measured."""
        now = time.perf_counter()
        seconds, self.before = now - self.before, now
        bits = report.bits_per_token
        if self.mean is None:
            self.begin()
            self.mean = bits
        self.mean = SMOOTHING * self.mean + (1 - SMOOTHING) * bits
        speed = self.in_step / seconds
        used = None if self.peak is None else self.peak.utilisation(seconds)
        values = {
            "loss": report.loss,
            "gradient_norm": report.gradient_norm,
            "learning_rate": report.learning_rate,
            f"{self.counted}s_per_second": speed,
            "utilisation": used,
            "held_out": report.held_out,
        }
        shown = f"loss {report.loss:.3f}, {self.mean:.3f} bits/{self.unit}, "
        shown += f"{speed:,.0f} {self.counted}s/s" + (
            "" if used is None else f", {used:.1%}"
        )
        self.bars.update(self.task, completed=report.step, figures=shown)
        self.log.append(report.step, **values)
        if self.events is not None:
            for name, value in values.items():
                if value is not None:
                    self.events.add_scalar(name, value, report.step)


@contextmanager
def reporting(
    out: Path, settings: TrainConfig, *, bars: Progress, unit: str, in_step: int,
    tensorboard: bool, peak: Peak | None, begin: Callable[[], None],
) -> Iterator[StepReporter]:  # fmt: skip
    """Give what reports the steps of a run, and close its files.

    Args:
      out: folder of the run.
      settings: of the run.
      bars: to show steps on.
      unit: what a token is called.
      in_step: tokens of a step.
      tensorboard: whether to write files for TensorBoard.
      peak: what the devices could do at best, None if that is not known.
      begin: called before the first step is written down.
    """
    with ExitStack() as stack:
        log = stack.enter_context(closing(MetricsLog(out / METRICS)))
        events = None
        if tensorboard:
            from tensorboardX import (  # pyright: ignore[reportMissingImports]
                SummaryWriter,
            )

            events = stack.enter_context(closing(SummaryWriter(str(out / EVENTS))))
        yield StepReporter(
            bars,
            settings,
            log,
            events,
            peak=peak,
            unit=unit,
            in_step=in_step,
            begin=begin,
        )


def check_tensorboard(wanted: bool) -> None:
    """Raise if files for TensorBoard are wanted that nothing here can write.

    Raises:
      ValueError: tensorboardX is not installed.
    """
    if wanted and importlib.util.find_spec("tensorboardX") is None:
        raise ValueError(
            "--tensorboard needs tensorboardX, which is not installed: type "
            'pip install "jmamba[tensorboard]", or leave it out; '
            f"{METRICS} has the same numbers."
        )


def ignore_step(report: StepReport) -> None:
    """Take what a step measured, and do nothing."""


def training_bars(*, is_shown: bool = True) -> Progress:
    """Return bars on standard error."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,}/{task.total:,} {task.fields[figures]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not is_shown,
    )
