"""Pictures of a lens: what each layer would say, and how far it is from the model."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from jmamba.figures.canvas import (
    GRID,
    INK,
    MARKERS,
    MUTED,
    PAGE_WIDTH,
    SERIES,
    color_bar,
    frame,
    layer_ticks,
    new_figure,
    token_axis,
)
from jmamba.figures.fonts import drawable, plain_text
from jmamba.figures.labels import shorten
from jmamba.report.lens.measure import LensReport
from jmamba.report.predictions import CLASSES

MARGIN = 2.3
"""Inches of a map's figure that the map does not have."""

LETTER = 0.6 * 7 / 72
"""Inches of a letter of 7 points."""

SHADES = "Blues"
"""Colours of probabilities: words can be written on them."""


def draw_lens(report: LensReport) -> Figure:
    """Draw the likeliest outcome of every layer after every token."""
    shares = np.asarray(report.reading.probabilities)[..., 0]
    figure, ax = _draw_map(
        report,
        shares,
        {"cmap": SHADES, "norm": Normalize(0, 1)},
        f"{report.lens}: likeliest {report.predictions.kind.one} of each layer",
        "probability",
    )
    letters = int((PAGE_WIDTH - MARGIN) / len(report.labels) / LETTER)
    if letters < 1:
        return figure
    is_class = report.predictions.kind is CLASSES  # few: their beginnings tell them
    for row, layer in enumerate(report.top_labels):
        for column, labels in enumerate(layer):
            if len(labels[0]) <= letters or letters > 3 or is_class:
                text = ax.text(
                    column,
                    row,
                    drawable(shorten(labels[0], letters)),
                    ha="center",
                    va="center",
                    color="white" if shares[row, column] > 0.6 else INK,
                    clip_on=True,
                )
                plain_text(text, fontsize=7)
    return figure


def draw_divergence(report: LensReport) -> Figure:
    """Draw how far every layer is from the whole model after every token."""
    values = np.asarray(report.reading.divergence)
    figure, _ = _draw_map(
        report,
        values,
        {"cmap": "viridis", "vmin": 0.0, "vmax": max(float(values.max()), 1e-3)},
        f"{report.lens}: bits lost by ending at a layer",
        "KL(model ‖ layer), bits",
    )
    return figure


def _draw_map(report: LensReport, values, options, title, label):
    """Draw a map of layer by token; return its figure and axes."""
    rows = float(np.clip(0.2 * len(values), 1.2, 9))
    figure = new_figure(PAGE_WIDTH, rows + 1.6)
    ax: Axes = figure.subplots()
    image = ax.imshow(values, aspect="auto", interpolation="nearest", **options)
    frame(ax, title)
    layer_ticks(ax, len(values), rows, [str(layer) for layer in report.layers])
    ax.set_ylabel("behind layer", fontsize=8, color=MUTED)
    inches = PAGE_WIDTH - MARGIN
    token_axis(ax, report, axis="x", inches=inches, name="after token")
    color_bar(figure, image, ax, label, pad=0.02)
    return figure, ax


def draw_last_predictions(report: LensReport) -> Figure:
    """Draw the probability of the model's likeliest outcomes through depth."""
    figure = new_figure(6.5, 3.2)
    ax = figure.subplots()
    shown = min(len(SERIES), report.last.shape[1])
    for k in range(shown):
        line = ax.plot(
            report.layers,
            report.last[:, k],
            color=SERIES[k],
            marker=MARKERS[k],
            markersize=4,
            linewidth=2 if k == 0 else 1,
        )
        line[0].set_label(drawable(shorten(report.predictions.labels[k], 16)))
    title = report.predictions.kind.one
    legend = ax.legend(frameon=False, title=title, title_fontsize=8)
    for text in legend.get_texts():
        plain_text(text, fontsize=8)
    ax.set_ylim(-0.02, 1.02)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    ax.set_xticks(report.layers[:: max(1, len(report.layers) // 12)])
    ax.tick_params(labelsize=7)
    ax.set_xlabel("behind layer", fontsize=8, color=MUTED)
    ax.set_ylabel("probability", fontsize=8, color=MUTED)
    ax.grid(**GRID)
    ax.set_axisbelow(True)
    frame(ax, f"{report.lens}: after the whole text", sides=("left", "bottom"))
    return figure
