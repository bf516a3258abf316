"""Pictures that reports share: token norms through depth, the likeliest outcomes."""

from typing import Protocol, runtime_checkable

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from jmamba.figures.canvas import (
    GRID,
    INK,
    MUTED,
    TOWARD,
    color_bar,
    frame,
    layer_ticks,
    log_scale,
    new_figure,
    plain_numbers,
    token_axis,
    token_width,
)
from jmamba.figures.fonts import drawable, plain_text
from jmamba.figures.labels import TokenReport, shorten
from jmamba.report.predictions import Predictions


@runtime_checkable
class NormReport(TokenReport, Protocol):
    """A report that knows how long its tokens are through depth."""

    @property
    def norms(self) -> np.ndarray:
        """The norm of each token before the first layer and after each."""
        ...


def draw_token_norms(report: NormReport) -> Figure:
    """Draw the norm of every token's residual stream through depth."""
    norms = report.norms
    depth, length = norms.shape
    width = token_width(length)
    rows = float(np.clip(0.17 * depth, 1.6, 6))
    figure = new_figure(width, rows + 4.4)
    heat, lines = figure.subplots(2, 1, height_ratios=[rows + 0.6, 2.6])
    image = heat.imshow(
        norms,
        aspect="auto",
        cmap="cividis",
        norm=log_scale(norms, 6.0),
        interpolation="nearest",
    )
    frame(heat, "norm of each token through depth")
    names = ["embedding", *map(str, range(depth - 1))]
    layer_ticks(heat, depth, rows, names)
    heat.set_ylabel("after layer", fontsize=8, color=MUTED)
    token_axis(heat, report, axis="x", inches=width - 2.2)
    color_bar(figure, image, heat, "Euclidean norm (log)", pad=0.02)
    _norm_lines(figure, lines, norms)
    return figure


def _norm_lines(figure, ax, norms):
    depth, length = norms.shape
    colors = colormaps["viridis"]
    positions = Normalize(0, max(length - 1, 1))
    for j in range(length):
        color = colors(positions(j))
        ax.plot(norms[:, j], color=color, linewidth=0.8, alpha=0.6, marker=".", ms=2)
    if length > 1:
        median = np.median(norms, axis=1)
        ax.plot(median, color=INK, linewidth=2, label="median token")
        ax.legend(frameon=False, fontsize=8)
        bar = ScalarMappable(positions, colors)
        color_bar(figure, bar, ax, "token position", pad=0.02)
    ax.set_yscale("log")
    frame(
        ax,
        "the same, one line per token" if length > 1 else "the same, as a line",
        sides=("left", "bottom"),
    )
    ax.set_xlabel("layers passed (0: embedding)", fontsize=8, color=MUTED)
    ax.set_ylabel("Euclidean norm (log)", fontsize=8, color=MUTED)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain_numbers(ax.yaxis)
    ax.tick_params(which="both", labelsize=7)
    ax.grid(**GRID)


def draw_predictions(best: Predictions) -> Figure:
    """Draw the probabilities of the likeliest next tokens, or classes."""
    figure = new_figure(6.5, 0.3 * len(best.ids) + 1.1)
    fill_predictions(figure.subplots(), best)
    return figure


def fill_predictions(ax: Axes, best: Predictions) -> None:
    """Draw on axes what `draw_predictions` draws as a figure."""
    count = len(best.ids)
    ax.barh(np.arange(count), best.probabilities, color=TOWARD, height=0.72)
    labels = [drawable(shorten(label, 24)) for label in best.labels]
    ax.set_yticks(np.arange(count), labels)
    for text in ax.get_yticklabels():
        plain_text(text, fontsize=9)
    ax.invert_yaxis()
    for i, p in enumerate(best.probabilities):
        ax.annotate(
            f"{100 * p:.1f} %",
            (p, i),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=INK,
        )
    ax.set_xlim(0, min(1.18, 1.18 * float(best.probabilities.max())))
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    ax.tick_params(axis="x", labelsize=7)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", **GRID)
    ax.set_axisbelow(True)
    ax.set_xlabel(f"probability of the {best.kind.one}", fontsize=8, color=MUTED)
    frame(ax, f"likeliest {best.kind.several}", sides=("left", "bottom"))
