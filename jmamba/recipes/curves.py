"""Learning curves of several runs in one figure."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from jmamba.report.canvas import new_figure


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
    """Draw the mean of each variant's runs, and a band that holds them all."""
    figure = new_figure(6.4, 3.8)
    ax = figure.subplots()
    for curve in curves:
        runs = np.stack(curve.runs)
        steps = np.arange(runs.shape[1])
        (line,) = ax.plot(steps, runs.mean(0), label=curve.name, lw=1.4)
        ax.fill_between(
            steps, runs.min(0), runs.max(0), color=line.get_color(), alpha=0.15, lw=0
        )
    last = np.concatenate([np.ravel(curve.runs) for curve in curves])
    ax.set_ylim(last.min() * 0.98, np.quantile(last, 0.97))
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return figure
