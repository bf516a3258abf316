"""Pictures of a text's explanation: hidden attention, the Jacobian, what drove it."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jmamba.figures.canvas import (
    AGAINST,
    GRID,
    INK,
    MAP_COLORS,
    MAP_DECADES,
    MUTED,
    PAGE_WIDTH,
    TOWARD,
    color_bar,
    frame,
    layer_ticks,
    log_scale,
    lower_triangle,
    new_figure,
    token_axis,
    token_width,
)
from jmamba.figures.fonts import drawable, plain_text
from jmamba.figures.labels import Piece
from jmamba.report.text.explanation import Explanation

AXES = {"x": "source token j", "y": "reading token i"}


def draw_attention_maps(explanation: Explanation) -> Figure:
    """Draw the hidden attention matrices of the chosen layers."""
    maps = _maps(explanation)
    layers = explanation.layers
    columns = min(2, len(layers))
    rows = math.ceil(len(layers) / columns)
    side = PAGE_WIDTH / 2
    figure = new_figure(side * columns, (side - 0.4) * rows + 0.3)
    figure.set_layout_engine("constrained", wspace=0.06, hspace=0.04)
    grid = figure.subplots(rows, columns, squeeze=False)
    for ax in grid.flat[len(layers) :]:
        ax.remove()
    for ax, layer in zip(grid.flat, layers, strict=False):
        matrix = lower_triangle(maps[layer])
        scale = log_scale(matrix, MAP_DECADES)
        image = ax.imshow(matrix, cmap=MAP_COLORS, norm=scale, interpolation="nearest")
        frame(ax, f"layer {layer}", sides=("left", "bottom"))
        inches = side - 2
        for axis, name in AXES.items():
            token_axis(ax, explanation, axis=axis, inches=inches, name=name)
        bar = {"shrink": 0.8, "pad": 0.02}
        color_bar(figure, image, ax, "mean |α| over channels (log)", **bar)
    return figure


def draw_attention_depth(explanation: Explanation) -> Figure:
    """Draw small hidden attention matrices of all layers, each on its own scale."""
    maps = _maps(explanation)
    count = len(maps)
    columns = min(count, 6)
    rows = math.ceil(count / columns)
    figure = new_figure(max(1.25 * columns, 3.2) + 0.9, 1.35 * rows + 0.7)
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


def draw_last_token(explanation: Explanation) -> Figure:
    """Draw where the last token looks: a bar per token over a strip per layer."""
    shares = 100 * explanation.layer_shares
    count, length = shares.shape
    width = token_width(length)
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


def draw_jacobian_norms(explanation: Explanation) -> Figure:
    """Draw how strongly each token's end depends on each token's start.

    Raises:
      ValueError: the explanation holds no Jacobian norms.
    """
    if explanation.jacobian is None:
        raise ValueError(
            "This explanation holds no Jacobian norms; make it with "
            "explain(..., jacobian=True) to draw them."
        )
    matrix = lower_triangle(explanation.jacobian)
    side = 6.4
    figure = new_figure(side + 0.6, side)
    ax = figure.subplots()
    image = ax.imshow(
        matrix, cmap="magma", norm=log_scale(matrix, 5.0), interpolation="nearest"
    )
    count = len(explanation.norms) - 1
    frame(ax, f"Jacobian of all {count} layers, by tokens", sides=("left", "bottom"))
    names = {"x": "input token j", "y": "output token i"}
    for axis, name in names.items():
        inches = side - 1.8
        token_axis(ax, explanation, axis=axis, inches=inches, name=name)
    label = "‖∂ x_out[i] / ∂ x_in[j]‖, Frobenius (log)"
    color_bar(figure, image, ax, label, shrink=0.85, pad=0.02)
    return figure


def draw_drivers(explanation: Explanation) -> Figure:
    """Draw what each token did for what is explained: left out, and by a method."""
    start, length = _first_left_out(explanation).start, len(explanation.ids)
    width = token_width(length - start)
    figure = new_figure(width, 4.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[1.6, 1])
    fill_drivers(upper, lower, explanation, width - 1)
    asked = drawable(explanation.explained)
    one = explanation.predictions.kind.one
    title = f"what spoke for (orange) and against (blue) {asked} as the {one}"
    if start > 0:
        title += f" (the last {length - start} of {length} tokens)"
    plain_text(upper.set_title(title, fontsize=9, loc="left", color=INK), mono=False)
    return figure


def fill_drivers(
    upper: Axes, lower: Axes, explanation: Explanation, inches: float
) -> None:
    """Draw on axes what `draw_drivers` draws as a figure, without its title.

    Args:
      upper: for what is lost without each token.
      lower: for relevance.
      explanation: what to draw.
      inches: width of the axes.
    """
    first = _first_left_out(explanation)
    reached = [piece for piece in explanation.pieces if piece.start >= first.start]
    start, length = first.start, len(explanation.ids)
    middles = [(piece.start + piece.stop - 1) / 2 for piece in reached]
    widths = [piece.stop - piece.start - 0.15 for piece in reached]
    _signed_bars(upper, middles, explanation.left_out, widths)
    upper.set_ylabel("left out: bits lost", fontsize=8, color=MUTED)
    relevance = explanation.relevance[explanation.method][start:]
    _signed_bars(lower, np.arange(start, length), relevance, 0.85)
    method = explanation.method.replace("_", " ")
    lower.set_ylabel(method, fontsize=8, color=MUTED)
    lower.set_xlim(start - 0.6, length - 0.4)
    token_axis(lower, explanation, axis="x", inches=inches, start=start)


def _first_left_out(explanation: Explanation) -> Piece:
    return explanation.pieces[len(explanation.pieces) - len(explanation.left_out)]


def _signed_bars(ax, x, values, widths) -> None:
    colors = [TOWARD if value >= 0 else AGAINST for value in values]
    ax.bar(x, values, width=widths, color=colors)
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.tick_params(axis="y", labelsize=7)
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="y", **GRID)
    ax.set_axisbelow(True)
    frame(ax, "", sides=("left",))


def _maps(explanation: Explanation) -> np.ndarray:
    if explanation.attention is None:
        raise ValueError(
            "This explanation holds no attention matrices; make it with "
            "explain(..., matrices=True) to draw them."
        )
    return explanation.attention
