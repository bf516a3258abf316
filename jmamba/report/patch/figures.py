"""Pictures of patches: what each brings back, exactly and by gradients."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from jmamba.figures.canvas import (
    GRID,
    INK,
    MUTED,
    TOWARD,
    color_bar,
    frame,
    layer_ticks,
    new_figure,
    token_axis,
    token_width,
)
from jmamba.figures.fonts import drawable, plain_text
from jmamba.figures.labels import shorten
from jmamba.report.patch.report import PatchReport

SIGNED = "PuOr_r"
"""Colours of both signs: orange brings the answer back, purple takes it away."""


def draw_patches(report: PatchReport) -> Figure:
    """Draw what each patch brings back, and below what the estimate says of it."""
    width = token_width(len(report.labels))
    count = len(report.row_labels)
    rows = float(np.clip(0.2 * count, 0.5, 7))
    figure = new_figure(width, 2 * rows + 2.6)
    upper, lower = figure.subplots(2, 1, sharex=True)
    most = max(float(np.abs(report.recovered).max()), 1e-6)
    maps = {
        "patched, one run each": (upper, report.recovered),
        "attribution patching, one gradient": (lower, report.estimated),
    }
    image = None
    for title, (ax, values) in maps.items():
        image = ax.imshow(
            values,
            aspect="auto",
            interpolation="nearest",
            cmap=SIGNED,
            norm=Normalize(-most, most),
        )
        frame(ax, title)
        names = [label.removeprefix("layer ") for label in report.row_labels]
        layer_ticks(ax, count, rows, names)
        if report.layers:
            ax.set_ylabel("layer", fontsize=8, color=MUTED)
        ax.tick_params(axis="x", labelbottom=ax is lower)
    _mark_differences(upper, report)
    token_axis(
        lower, report, axis="x", inches=width - 2, name="token of the clean text"
    )
    label = "share of the answer's\nlogit brought back"
    bar = color_bar(figure, image, [upper, lower], label, pad=0.02)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure


def _mark_differences(ax: Axes, report: PatchReport) -> None:
    """Name the corrupted tokens over the columns where the texts differ."""
    if len(report.different) > 12:
        return  # their names would overlap; the page lists them
    top = ax.secondary_xaxis("top")
    labels = [
        f"not {drawable(shorten(report.corrupted_labels[i]))}" for i in report.different
    ]
    top.set_xticks(report.different.tolist(), labels)
    for text in top.get_xticklabels():
        plain_text(text, fontsize=7, rotation=90, color=TOWARD)
    top.tick_params(length=3, pad=2, colors=TOWARD)
    top.spines["top"].set_visible(False)


def draw_estimate(report: PatchReport) -> Figure:
    """Draw the estimate of every patch against what it does."""
    figure = new_figure(6.4, 4.2)
    ax = figure.subplots()
    rows = np.broadcast_to(
        np.arange(len(report.row_labels))[:, None], report.change.shape
    )
    points = ax.scatter(
        report.recovered.ravel(),
        report.estimated.ravel(),
        c=rows.ravel(),
        cmap="viridis",
        s=14,
        alpha=0.8,
        linewidths=0,
    )
    ends = [float(report.recovered.min()), float(report.recovered.max())]
    ax.plot(ends, ends, color=INK, linewidth=0.8, label="where both agree")
    ax.legend(frameon=False, fontsize=8)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.tick_params(labelsize=7)
    ax.grid(**GRID)
    ax.set_axisbelow(True)
    ax.set_xlabel("brought back by the patch", fontsize=8, color=MUTED)
    ax.set_ylabel("estimated from one gradient", fontsize=8, color=MUTED)
    worst = 100 * report.error.worst
    title = f"correlation {report.error.correlation:.3f}, off by {worst:.0f} % at worst"
    frame(ax, title, sides=("left", "bottom"))
    if len(report.layers) > 1:
        bar = color_bar(figure, points, ax, "layer", pad=0.02)
        ticks = np.unique(np.linspace(0, len(report.layers) - 1, 6).astype(int))
        bar.set_ticks(ticks.tolist(), labels=[str(report.layers[i]) for i in ticks])
    return figure
