"""Room for tokens in what layers of softmax attention remember."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jmamba.types import KeyValues


def add_room(cache: Any, count: int) -> Any:
    """Return a cache with places for so many more tokens where softmax needs them.

    Args:
      cache: of a layer, or of all layers of a model.
      count: of tokens.
    """
    return change_room(cache, lambda room: room + count)


def change_room(cache: Any, new: Callable[[int], int]) -> Any:
    """Return a cache whose places for tokens are as many as new(how many there are).

    Args:
      cache: of a layer, or of all layers of a model; what is no `KeyValues` stays.
      new: may return fewer than there are.
    """

    def change(x):  # ... t g n
        room = x.shape[-3]
        ends = [(0, 0)] * x.ndim
        ends[-3] = (0, max(0, new(room) - room))
        return jnp.pad(x[..., : new(room), :, :], ends)

    def each(node):
        return jax.tree.map(change, node) if isinstance(node, KeyValues) else node

    return jax.tree.map(each, cache, is_leaf=lambda x: isinstance(x, KeyValues))
