"""Learning curves of several runs in one figure."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from jmamba.figures.canvas import SERIES, new_figure, plain_numbers


class Curve(NamedTuple):
    """The runs of one variant: a value for each step, of each seed."""

    name: str
    runs: list[np.ndarray]


def smooth(curve: Curve, window: int) -> Curve:
    """Return running means over a window of steps, as many as there are whole windows.

    Examples:
      >>> smooth(Curve("a", [np.array([1.0, 3.0, 5.0])]), 2).runs[0].tolist()
      [2.0, 4.0]
    """
    window = max(1, window)
    kernel = np.full(window, 1 / window)
    return Curve(curve.name, [np.convolve(r, kernel, "valid") for r in curve.runs])


def draw_curves(curves: Sequence[Curve], *, x: str, y: str) -> Figure:
    """Draw the mean of each variant's runs, and a band that holds them all.

    Below, each run minus the first variant's run of the same seed.
    """
    figure = new_figure(6.4, 5.6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    first = curves[0]
    for number, curve in enumerate(curves):
        colour = SERIES[number % len(SERIES)]
        _draw_band(above, np.stack(curve.runs), colour, label=curve.name)
        runs = [a - b for a, b in zip(curve.runs, first.runs, strict=True)]
        _draw_band(below, np.stack(runs), colour)
    every = np.concatenate([np.ravel(curve.runs) for curve in curves])
    if every.min() > 0:  # a start far above the rest is in the picture all the same
        above.set_yscale("log")
        plain_numbers(above.yaxis)
    above.set_ylabel(y)
    figure.legend(loc="outside upper center", frameon=False, fontsize=8, ncols=3)
    below.set_ylabel(f"minus {first.name}", fontsize=8)
    below.set_xlabel(x)
    for ax in (above, below):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_band(ax, runs, colour: str, label: str | None = None) -> None:
    steps = np.arange(runs.shape[1])
    ax.plot(steps, runs.mean(0), color=colour, label=label, lw=1.4)
    ax.fill_between(steps, runs.min(0), runs.max(0), color=colour, alpha=0.15, lw=0)
