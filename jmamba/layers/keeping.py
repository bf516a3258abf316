"""Readings of chosen layers of a walk: memory grows with these, not with depth."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Keeping:
    """A slot for each layer whose reading is kept, and one that all others overwrite.

    Args:
      chosen: which layers.
      layers: of the walk.
    """

    def __init__(self, chosen: Sequence[int], layers: slice):
        self.count = len(chosen)
        self.slots = np.full(layers.stop - layers.start, self.count)
        self.slots[np.asarray(chosen) - layers.start] = range(self.count)

    def empty(self, like: Any) -> Any:
        """Return what holds no readings yet; `like` has the shapes of one."""
        rows = self.count + 1
        return 0, jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), like)

    def put(self, kept: Any, found: Any) -> Any:
        """Return what was kept with the reading of the next layer."""
        index, records = kept
        slot = jnp.asarray(self.slots)[index]
        put = partial(jax.lax.dynamic_update_index_in_dim, index=slot, axis=0)
        return index + 1, jax.tree.map(put, records, found)

    def take(self, kept: Any) -> Any:
        """Return the readings, with a leading axis of chosen layers."""
        return jax.tree.map(lambda x: x[: self.count], kept[1])
