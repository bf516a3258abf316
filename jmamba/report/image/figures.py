"""Pictures of what a model sees in an image: relevance over it, layers, classes."""

import math

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from jmamba.figures.canvas import (
    AGAINST,
    GRID,
    INK,
    MAP_COLORS,
    MAP_DECADES,
    MARKERS,
    MUTED,
    PAGE_WIDTH,
    SERIES,
    TOWARD,
    color_bar,
    frame,
    log_scale,
    new_figure,
)
from jmamba.figures.fonts import drawable, plain_text
from jmamba.figures.labels import shorten
from jmamba.report.image.explanation import ImageExplanation

HEAT = colormaps["inferno"]
SIGNED = LinearSegmentedColormap.from_list("signed", [AGAINST, "#f7f7f7", TOWARD])
"""Blue against, orange for."""

WITHOUT_CLASS = ("raw_attention", "attention_rollout", "token_norms", "alti")
"""Methods that are the same for every class."""

DRAWN_PIXELS = 640
"""Side of the picture as it is drawn; finer ones are thinned out."""


def draw_heat_map(explanation: ImageExplanation) -> Figure:
    """Draw the picture, relevance over it, and relevance alone."""
    figure = new_figure(PAGE_WIDTH, 2.4 * min(_ratio(explanation), 2) + 0.9)
    axes = figure.subplots(1, 3)
    grid = explanation.relevance[explanation.method]
    colors, scale = heat_scale(grid)
    picture = _thin(explanation.part)
    axes[0].imshow(picture)
    _overlay(axes[1], explanation, picture, grid)
    shown = axes[2].imshow(grid, cmap=colors, norm=scale, interpolation="nearest")
    rows, columns = grid.shape
    names = ("what the model saw", "relevance over it", f"{rows} x {columns} patches")
    for ax, name in zip(axes, names, strict=True):
        _bare(ax, name)
    bar = color_bar(figure, shown, axes[2], "relevance", shrink=0.85, pad=0.03)
    bar.ax.yaxis.get_offset_text().set_fontsize(7)
    title = _title(explanation.method)
    if explanation.method not in WITHOUT_CLASS:
        title += f" for {drawable(explanation.label)}"
    if colors is SIGNED:
        title += ": orange above zero, blue below"
    plain_text(figure.suptitle(title), mono=False, fontsize=10, color=INK)
    return figure


def methods(explanation: ImageExplanation) -> Figure:
    """Draw the relevance that each method finds, over the picture.

    Raises:
      ValueError: the explanation holds one method only.
    """
    if explanation.others is None:
        raise ValueError(
            "This explanation holds one method; make it with "
            "explain_image(..., all_methods=True) to draw all."
        )
    found = explanation.others
    picture = _thin(explanation.part)
    columns = 4
    rows = math.ceil((len(found) + 1) / columns)
    height = PAGE_WIDTH / columns * min(_ratio(explanation), 2) + 0.3
    figure = new_figure(PAGE_WIDTH, height * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    axes[0].imshow(picture)
    _bare(axes[0], "picture")
    for ax, (name, grid) in zip(axes[1:], found.items(), strict=False):
        _overlay(ax, explanation, picture, grid)
        _bare(ax, _title(name) + (" •" if name == explanation.method else ""))
    for ax in axes[len(found) + 1 :]:
        ax.remove()
    return figure


def class_attention(explanation: ImageExplanation) -> Figure:
    """Draw which patches the class token reads in each layer."""
    maps = explanation.class_attention
    count = len(maps)
    columns = min(count, 6)
    rows = math.ceil(count / columns)
    height = 1.25 * min(_ratio(explanation), 2) + 0.3
    figure = new_figure(max(1.25 * columns, 3.4) + 0.9, max(height * rows, 1.6) + 0.3)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[count:]:
        ax.remove()
    scale = Normalize(0, 1)
    for layer, (ax, grid) in enumerate(zip(axes, maps, strict=False)):
        share = grid / (grid.max() or 1)
        ax.imshow(share, cmap=MAP_COLORS, norm=scale, interpolation="nearest")
        chosen = " •" if layer in explanation.layers else ""
        _bare(ax, f"layer {layer}{chosen}")
    bar = ScalarMappable(scale, colormaps[MAP_COLORS])
    label = "mean |α| / largest of the layer"
    shrink = min(0.9, 4 / (height * rows))
    color_bar(figure, bar, axes[:count].tolist(), label, shrink=shrink, pad=0.02)
    return figure


def draw_maps_of_layers(explanation: ImageExplanation) -> Figure:
    """Draw hidden attention between all tokens in the chosen layers.

    Raises:
      ValueError: the explanation holds no attention matrices.
    """
    maps, layers = _matrices(explanation), explanation.layers
    columns = min(2, len(layers))
    rows = math.ceil(len(layers) / columns)
    side = PAGE_WIDTH / 2
    figure = new_figure(side * columns, (side - 0.4) * rows + 0.3)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(layers) :]:
        ax.remove()
    for ax, layer in zip(axes, layers, strict=False):
        scale = log_scale(maps[layer], MAP_DECADES)
        image = ax.imshow(
            maps[layer], cmap=MAP_COLORS, norm=scale, interpolation="nearest"
        )
        frame(ax, f"layer {layer}", sides=("left", "bottom"))
        _token_ticks(ax, explanation)
        color_bar(
            figure, image, ax, "mean |α| over channels (log)", shrink=0.8, pad=0.02
        )
    return figure


def draw_depth(explanation: ImageExplanation) -> Figure:
    """Draw small hidden attention matrices of all layers, each on its own scale.

    Raises:
      ValueError: the explanation holds no attention matrices.
    """
    maps = _matrices(explanation)
    count = len(maps)
    columns = min(count, 6)
    rows = math.ceil(count / columns)
    figure = new_figure(max(1.25 * columns, 3.2) + 0.9, 1.4 * rows + 0.6)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[count:]:
        ax.remove()
    scale = log_scale(np.array([10.0**-MAP_DECADES, 1.0]), MAP_DECADES)
    for layer, (ax, matrix) in enumerate(zip(axes, maps, strict=False)):
        share = matrix / (matrix.max() or 1)
        ax.imshow(share, cmap=MAP_COLORS, norm=scale, interpolation="nearest")
        chosen = " •" if layer in explanation.layers else ""
        _bare(ax, f"layer {layer}{chosen}")
    bar = ScalarMappable(scale, colormaps[MAP_COLORS])
    label = "mean |α| / largest of the layer"
    shrink = min(0.9, 3.2 / rows)
    color_bar(figure, bar, axes[:count].tolist(), label, shrink=shrink, pad=0.02)
    figure.supxlabel("source token j", fontsize=8, color=MUTED)
    figure.supylabel("reading token i, downwards", fontsize=8, color=MUTED)
    return figure


def layer_evolution(explanation: ImageExplanation) -> Figure:
    """Draw what the classifier would say after each layer."""
    reading = explanation.reading
    figure = new_figure(7.5, 3.6)
    ax = figure.subplots()
    for k, label in enumerate(explanation.predictions.labels):
        (line,) = ax.plot(reading[:, k], ms=4, label=plain_label(label))
        line.set(color=SERIES[k % len(SERIES)], marker=MARKERS[k % len(MARKERS)])
    frame(ax, "the classifier after each layer", sides=("left", "bottom"))
    ax.set_xlabel("layers passed (0: embedding)", fontsize=8, color=MUTED)
    ax.set_ylabel("probability", fontsize=8, color=MUTED)
    ax.set_ylim(-0.02, 1.02)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(labelsize=7)
    ax.grid(**GRID)
    legend = ax.legend(
        frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    for text in legend.get_texts():
        plain_text(text, mono=False)
    return figure


def plain_label(label: str) -> str:
    """Return a label for a legend, which hides those that begin with an underscore."""
    return drawable(shorten(label, 24)).lstrip("_") or "?"


def heat_scale(grid: np.ndarray) -> tuple:
    """Return the colours of a map and their scale.

    A map of both signs gets two colours that part at zero, with equal reach; any other
    one colour scale from its least to its largest value.
    """
    low, high = float(grid.min()), float(grid.max())
    if low < 0 < high:
        reach = max(-low, high)
        return SIGNED, Normalize(-reach, reach)
    return HEAT, Normalize(low, high if high > low else low + 1)


def _overlay(ax, explanation: ImageExplanation, picture, grid: np.ndarray) -> None:
    """Draw a map over a picture that is paler the less relevant it is."""
    colors, scale = heat_scale(grid)
    grey = picture.astype(np.float32).mean(axis=-1) / 255
    ax.imshow(grey, cmap="gray", vmin=-0.15, vmax=1.15)
    heat = explanation.spread(grid, *grey.shape)
    strength = np.abs(scale(heat) - 0.5) * 2 if colors is SIGNED else scale(heat)
    layer = colors(scale(heat))
    layer[..., 3] = 0.3 + 0.55 * strength
    ax.imshow(layer, interpolation="nearest")


def _bare(ax, title: str) -> None:
    frame(ax, title)
    ax.set_xticks([])
    ax.set_yticks([])


def _token_ticks(ax, explanation: ImageExplanation) -> None:
    """Number the tokens and mark the class token on both axes."""
    length, place = explanation.norms.shape[1], explanation.class_index
    step = max(1, math.ceil(length / 8))
    ticks = [i for i in range(0, length, step)]
    names = [str(i) for i in ticks]
    if place is not None:
        kept = [i for i in ticks if abs(i - place) >= step / 2]
        ticks, names = [*kept, place], [*map(str, kept), "class"]
    ax.set_xticks(ticks, names, fontsize=7)
    ax.set_yticks(ticks, names, fontsize=7)
    ax.set_xlabel("source token j (patches row by row)", fontsize=8, color=MUTED)
    ax.set_ylabel("reading token i", fontsize=8, color=MUTED)


def _matrices(explanation: ImageExplanation) -> np.ndarray:
    if explanation.attention is None:
        raise ValueError(
            "This explanation holds no attention matrices; make it with "
            "explain_image(..., matrices=True) to draw them."
        )
    return explanation.attention


def _ratio(explanation: ImageExplanation) -> float:
    """Return the height of what was seen over its width."""
    return explanation.seen.height / explanation.seen.width


def _thin(picture: np.ndarray) -> np.ndarray:
    step = math.ceil(max(picture.shape[:2]) / DRAWN_PIXELS)
    return picture[::step, ::step]


def _title(method: str) -> str:
    return method.replace("_", " ")
