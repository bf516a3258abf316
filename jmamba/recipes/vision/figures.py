"""The figure of maps over pictures."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from jmamba.figures.canvas import new_figure

SIDE = 1.05
"""Of one map, in inches."""


def draw_maps(
    pictures: np.ndarray, masks: np.ndarray, maps: Mapping[str, np.ndarray]
) -> Figure:
    """Draw pictures in the first row, their masks, and a row of maps per method.

    Args:
      pictures: a few, (b, h, w, 3) in [0, 1].
      masks: where their objects are, (b, h, w).
      maps: name -> (b, h, w), each scaled to its own range.
    """
    rows, count = len(maps) + 2, len(pictures)
    figure = new_figure(SIDE * count + 2.4, SIDE * rows)
    axes = figure.subplots(rows, count, squeeze=False)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    names = ["picture", "object", *maps]
    layers = [pictures, masks, *maps.values()]
    for row, name, layer in zip(axes, names, layers, strict=True):
        row[0].set_ylabel(
            name.replace("_", " ").replace(": ", "\n"), rotation=0, ha="right",
            va="center", fontsize=8,
        )  # fmt: skip
        for ax, image in zip(row, layer, strict=True):
            is_map = image.ndim == 2
            ax.imshow(image, cmap="inferno" if is_map else None)
    return figure
