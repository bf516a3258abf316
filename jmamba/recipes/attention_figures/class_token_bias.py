"""Where class tokens of Vision Mamba look on average: at patches that are near."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jmamba.attention import average_layers, patch_grid
from jmamba.models.vim.images import normalise
from jmamba.models.vim.model import Vim

NEAR = 4
"""Patches at most so far from the class token, in the model's order, are near."""

BATCH = 16


class ClassBias(NamedTuple):
    """What a class token reads, the mean over pictures.

    Attributes:
      grid: mean |alpha| of each layer and patch, rows and columns.
      near: mean weight of near patches over the mean of all, for each layer.
    """

    grid: Float[np.ndarray, "s rows columns"]
    near: Float[np.ndarray, "s"]


def measure_bias(model: Vim, images: Float[np.ndarray, "b h w 3"]) -> ClassBias:
    """Average the class token's attention over pictures.

    Args:
      model: a Vim with a class token.
      images: colours in [0, 1].

    Raises:
      ValueError: the model has no class token.
    """
    place = model.config.class_position()
    if place is None:
        raise ValueError(
            "This Vim has no class token whose attention could be averaged; give one "
            "that has."
        )
    inputs = normalise(images)
    batches = [inputs[i : i + BATCH] for i in range(0, len(inputs), BATCH)]
    row = average_layers(model, batches).row
    height, width = images.shape[1:3]
    grid = np.asarray(patch_grid(model, jnp.asarray(row), height, width))
    apart = np.abs(np.arange(row.shape[1]) - place)
    near = row[:, (apart > 0) & (apart <= NEAR)].mean(axis=1)
    return ClassBias(grid, near / row[:, apart > 0].mean(axis=1))
