"""What the pictures of an image's explanation show, in words and numbers."""

import numpy as np

from jmamba.report.image.explanation import ImageExplanation
from jmamba.report.words import describe_layers, describe_pairs, quote


def describe_heat(explanation: ImageExplanation) -> str:
    """Say where the strongest patch is."""
    grid = explanation.relevance[explanation.method]
    rows, columns = grid.shape
    return (
        f"{_strongest(grid)}; values of {rows} x {columns} patches, from "
        f"{grid.min():.3g} to {grid.max():.3g}"
    )


def describe_methods(explanation: ImageExplanation) -> str:
    """Say where the strongest patch is by each method."""
    found = explanation.relevance.items()
    parts = [f"{name.replace('_', ' ')}: {_strongest(grid)}" for name, grid in found]
    return "; ".join(parts)


def describe_class_attention(explanation: ImageExplanation) -> str:
    """Say which patch is read most in the chosen layers."""
    maps = explanation.class_attention
    parts = [f"layer {k}: {_strongest(maps[k])}" for k in explanation.layers]
    return "; ".join(parts)


def describe_evolution(explanation: ImageExplanation) -> str:
    """Say how sure the classifier is at first and at last."""
    first, last = 100 * explanation.reading[0, 0], 100 * explanation.reading[-1, 0]
    best = quote(explanation.predictions.labels[0])
    return f"{best} goes from {first:.3g} % at the embedding to {last:.3g} % at the end"


def describe_maps(explanation: ImageExplanation) -> str:
    """Name the strongest links of the chosen layers."""
    assert explanation.attention is not None
    names = [f"token {i}" for i in range(explanation.attention.shape[-1])]
    return describe_pairs(explanation.attention, explanation.layers, names)


def describe_depth(explanation: ImageExplanation) -> str:
    """Say how strong the strongest link of each layer is."""
    assert explanation.attention is not None
    return "the largest " + describe_layers(explanation.attention.max(axis=(1, 2)))


def _strongest(grid: np.ndarray) -> str:
    row, column = np.unravel_index(np.argmax(np.abs(grid)), grid.shape)
    return (
        f"strongest in row {row + 1}, column {column + 1}, with {grid[row, column]:.3g}"
    )
