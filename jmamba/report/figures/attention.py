"""Pictures of hidden attention: maps of layers, all depths, the last token."""

import math

import numpy as np
from matplotlib.figure import Figure

from jmamba.report.figures.canvas import (
    INK,
    MUTED,
    color_bar,
    drawable,
    frame,
    log_scale,
    lower_triangle,
    new_figure,
    plain_text,
    token_axis,
)
from jmamba.report.text.explanation import Explanation

MAP_COLORS = "viridis"
AXES = {"x": "source token j", "y": "reading token i"}
MAP_DECADES = 3.0  # as in DeciMamba's maps: weaker links are not told apart


def draw_attention_maps(explanation: Explanation) -> Figure:
    """Draw the hidden attention matrices of the chosen layers."""
    maps = _maps(explanation)
    layers = explanation.layers
    columns = min(2, len(layers))
    rows = math.ceil(len(layers) / columns)
    side = 5.2
    figure = new_figure(side * columns + 0.4, (side - 0.5) * rows + 0.4)
    figure.set_layout_engine("constrained", wspace=0.06, hspace=0.04)
    grid = figure.subplots(rows, columns, squeeze=False)
    for ax in grid.flat[len(layers) :]:
        ax.remove()
    for ax, layer in zip(grid.flat, layers, strict=False):
        matrix = lower_triangle(maps[layer])
        scale = log_scale(matrix, MAP_DECADES)
        image = ax.imshow(matrix, cmap=MAP_COLORS, norm=scale, interpolation="nearest")
        frame(ax, f"layer {layer}", sides=("left", "bottom"))
        inches = side - 1.6
        for axis, name in AXES.items():
            token_axis(ax, explanation, axis=axis, inches=inches, name=name)
        bar = {"shrink": 0.8, "pad": 0.02}
        color_bar(figure, image, ax, "mean |α| over channels (log)", **bar)
    return figure


def draw_attention_depth(explanation: Explanation) -> Figure:
    """Draw small hidden attention matrices of all layers, each on its own scale."""
    maps = _maps(explanation)
    count = len(maps)
    columns = min(count, 8 if count > 18 else 6)
    rows = math.ceil(count / columns)
    figure = new_figure(max(1.45 * columns, 3.2) + 0.9, 1.55 * rows + 0.7)
    grid = figure.subplots(rows, columns, squeeze=False)
    for ax in grid.flat[count:]:
        ax.remove()
    image = None
    for layer, (ax, matrix) in enumerate(zip(grid.flat, maps, strict=False)):
        matrix = lower_triangle(matrix / (matrix.max() or 1))
        scale = log_scale(np.array([10.0**-MAP_DECADES, 1.0]), MAP_DECADES)
        image = ax.imshow(matrix, cmap=MAP_COLORS, norm=scale, interpolation="nearest")
        chosen = " •" if layer in explanation.layers else ""
        frame(ax, f"layer {layer}{chosen}")
        ax.set_xticks([])
        ax.set_yticks([])
    axes = grid.ravel()[:count].tolist()
    label = "mean |α| / largest of the layer"
    color_bar(figure, image, axes, label, shrink=min(0.9, 3.2 / rows), pad=0.02)
    length = maps.shape[1]
    figure.supxlabel(
        f"source token j, 0 to {length - 1}" if length > 1 else "source token j",
        fontsize=8,
        color=MUTED,
    )
    figure.supylabel("reading token i, from top to bottom", fontsize=8, color=MUTED)
    return figure


def last_token_attention(explanation: Explanation) -> Figure:
    """Draw where the last token looks: a bar per token over a strip per layer."""
    shares = 100 * explanation.layer_shares
    count, length = shares.shape
    width = float(np.clip(0.17 * length + 3, 7, 13))
    strips = float(np.clip(0.17 * count, 1.4, 6))
    figure = new_figure(width, strips + 3)
    bars, strip = figure.subplots(2, 1, sharex=True, height_ratios=[1.5, strips])
    bars.bar(np.arange(length), shares.mean(axis=0), width=0.85, color="#31688e")
    bars.set_ylabel("mean over\nlayers (%)", fontsize=8, color=MUTED)
    bars.tick_params(labelsize=7, bottom=False, labelbottom=False)
    bars.grid(axis="y", color="#e3e7ee", linewidth=0.6)
    bars.set_axisbelow(True)
    frame(bars, "", sides=("left", "bottom"))
    last = drawable(explanation.labels[-1])
    title = bars.set_title(f"attention from the last token, {last}", loc="left")
    plain_text(title, mono=False, fontsize=9, color=INK)
    image = strip.imshow(
        shares,
        aspect="auto",
        cmap=MAP_COLORS,
        norm=log_scale(shares, MAP_DECADES),
        interpolation="nearest",
    )
    frame(strip, "")
    strip.set_ylabel("layer", fontsize=8, color=MUTED)
    layer_ticks(strip, count, strips)
    token_axis(strip, explanation, axis="x", inches=width - 2, name=AXES["x"])
    label = "share of the\nlayer's attention (%, log)"
    color_bar(figure, image, strip, label, pad=0.02, aspect=max(8, 12 * strips / 2))
    return figure


def layer_ticks(ax, count: int, inches: float, names=None) -> None:
    """Number the layers on the y axis, thinned out where numbers would touch."""
    step = math.ceil(count / max(1, int(inches * 72 / 10)))
    ticks = np.arange(0, count, step)
    names = [str(i) for i in range(count)] if names is None else names
    ax.set_yticks(ticks, [names[i] for i in ticks])
    ax.tick_params(axis="y", labelsize=7, length=2)


def _maps(explanation: Explanation) -> np.ndarray:
    if explanation.attention is None:
        raise ValueError(
            "This explanation holds no attention matrices; make it with "
            "explain(..., matrices=True) to draw them."
        )
    return explanation.attention
