"""Pictures of attention through depth: maps side by side, distances, class tokens."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from jmamba.figures.canvas import (
    INK,
    MAP_COLORS,
    MAP_DECADES,
    MUTED,
    TOWARD,
    color_bar,
    frame,
    log_scale,
    new_figure,
    plain_numbers,
)

AttentionMap = Float[np.ndarray, "q l"]
SIDE = 1.5
"""Of a small map, in inches."""


def draw_map_grid(
    maps: Mapping[str, Sequence[AttentionMap]],
    columns: Sequence[str],
    *,
    split: int = 0,
) -> Figure:
    """Draw rows of causal maps, each on its own linear scale from 0 to its 99 %.

    Args:
      maps: name of a row -> its maps.
      columns: what the maps of a column are.
      split: the column that is set apart from those before it; 0 for none.
    """
    count = len(columns)
    figure = new_figure(SIDE * 1.05 * count + 1.5, SIDE * len(maps) + 0.75)
    axes = figure.subplots(len(maps), count, squeeze=False)
    image = None
    for row, (name, line) in enumerate(maps.items()):
        for column, matrix in enumerate(line):
            ax = axes[row, column]
            past = np.tri(*matrix.shape, dtype=bool)
            # the largest may stand alone: a Transformer's first row is 1
            shown = np.abs(matrix) / (np.quantile(np.abs(matrix)[past], 0.99) or 1)
            shown = np.ma.masked_where(~past, shown)
            image = ax.imshow(
                shown, cmap=MAP_COLORS, vmin=0, vmax=1, interpolation="nearest"
            )
            frame(ax, columns[column] if row == 0 else "")
            ax.title.set_fontsize(7.5)
            _bare(ax)
            if split and column == split:
                ax.spines["left"].set_visible(True)
        axes[row, 0].set_ylabel(name, fontsize=8, color=INK)
    color_bar(
        figure,
        image,
        axes.ravel().tolist(),
        "|weight| / 99 % quantile",
        shrink=0.6,
        pad=0.02,
    )
    return figure


def draw_depth_rows(models: Mapping[str, Sequence[AttentionMap]]) -> Figure:
    """Draw one map per layer, a row for each model, on a logarithmic scale.

    Args:
      models: name -> the map of each layer, at least 0.
    """
    count = max(len(maps) for maps in models.values())
    figure = new_figure(SIDE * count + 1.3, SIDE * 1.08 * len(models) + 0.5)
    axes = figure.subplots(len(models), count, squeeze=False)
    image = None
    for line, (name, maps) in zip(axes, models.items(), strict=True):
        for ax in line[len(maps) :]:
            ax.remove()
        for layer, (ax, matrix) in enumerate(zip(line, maps, strict=False)):
            image = _log_map(ax, matrix)
            frame(ax, f"layer {layer}")
            _bare(ax)
        line[0].set_ylabel(name, fontsize=8, color=INK)
    shown = [ax for ax in axes.ravel() if ax.figure is not None]
    color_bar(figure, image, shown, "weight / largest (log)", shrink=0.7, pad=0.02)
    return figure


def _log_map(ax, matrix: AttentionMap):
    """Draw a map over its largest weight, in three decades."""
    scaled = np.abs(matrix) / (np.abs(matrix).max() or 1)
    scale = log_scale(np.array([10.0**-MAP_DECADES, 1.0]), MAP_DECADES)
    shown = np.ma.masked_where(~np.tri(*scaled.shape, dtype=bool), scaled)
    return ax.imshow(shown, cmap=MAP_COLORS, norm=scale, interpolation="nearest")


def draw_distances(
    channels: Float[np.ndarray, "s d"], heads: Float[np.ndarray, "t h"], length: int
) -> Figure:
    """Draw how far back channels of each layer read, beside the heads of another model.

    Args:
      channels: mean distance of each layer's channels, in tokens.
      heads: mean distance of each layer's heads.
      length: tokens of the texts.
    """
    figure = new_figure(8.4, 0.42 * len(channels) + 1.5)
    left, right = figure.subplots(1, 2, width_ratios=[1.6, 1], sharex=True)
    edges = np.geomspace(0.5, length, 33)
    edges[0] = 0
    shares = np.stack([np.histogram(layer, edges)[0] for layer in channels])
    shares = 100 * shares / shares.sum(axis=1, keepdims=True)
    edges[0] = 0.5
    places = np.arange(len(channels) + 1) - 0.5
    image = left.pcolormesh(edges, places, shares, cmap="magma_r", rasterized=True)
    median = np.median(channels, axis=1)
    left.plot(median, np.arange(len(channels)), "o-", color="#1f78b4", ms=4, lw=1)
    frame(left, "Mamba: channels (line: median)", sides=("left", "bottom"))
    color_bar(figure, image, left, "% of the layer's channels", pad=0.01)
    for layer, line in enumerate(heads):
        right.plot(line, np.full(len(line), layer), "o", color=TOWARD, ms=5, alpha=0.8)
    frame(right, "Transformer: heads", sides=("left", "bottom"))
    right.grid(axis="x", color="#e3e7ee", linewidth=0.6)
    for ax, count in ((left, len(channels)), (right, len(heads))):
        ax.set_xscale("log")
        plain_numbers(ax.xaxis)
        ax.set_xlabel("mean distance, tokens (log)", fontsize=8, color=MUTED)
        ax.set_ylabel("layer", fontsize=8, color=MUTED)
        ax.set_yticks(range(count))
        ax.set_ylim(count - 0.5, -0.5)
        ax.tick_params(labelsize=7)
    return figure


def draw_long_maps(
    maps: Mapping[str, Sequence[AttentionMap]], layers: Sequence[int]
) -> Figure:
    """Draw maps of short and long texts on a logarithmic scale.

    Args:
      maps: name of a row -> the map of each layer.
      layers: the layers' numbers.
    """
    side = 2.3
    figure = new_figure(side * len(layers) + 1.4, side * len(maps) + 0.5)
    axes = figure.subplots(len(maps), len(layers), squeeze=False)
    image = None
    for line, (name, row) in zip(axes, maps.items(), strict=True):
        for ax, matrix, layer in zip(line, row, layers, strict=True):
            image = _log_map(ax, matrix)
            frame(ax, f"layer {layer}")
            _bare(ax)
        line[0].set_ylabel(name, fontsize=8, color=INK)
    label = "|mean α| / largest (log)"
    color_bar(figure, image, axes.ravel().tolist(), label, shrink=0.6, pad=0.02)
    return figure


def draw_class_bias(grids: Mapping[str, Mapping[str, AttentionMap]]) -> Figure:
    """Draw what class tokens read on average, over the patches of images.

    Args:
      grids: model -> layer -> the mean weight of each patch, rows and columns.
    """
    count = max(len(layers) for layers in grids.values())
    figure = new_figure(1.9 * count + 1.0, 1.9 * len(grids) + 0.5)
    axes = figure.subplots(len(grids), count, squeeze=False)
    image = None
    for line, (name, layers) in zip(axes, grids.items(), strict=True):
        for ax, (layer, grid) in zip(line, layers.items(), strict=True):
            image = ax.imshow(grid / grid.max(), cmap=MAP_COLORS, vmin=0, vmax=1)
            frame(ax, layer)
            _bare(ax)
        line[0].set_ylabel(name, fontsize=8, color=INK)
    label = "mean weight / largest"
    color_bar(figure, image, axes.ravel().tolist(), label, shrink=0.7, pad=0.02)
    return figure


def _bare(ax) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
