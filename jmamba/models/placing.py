"""Arrays put where they are to lie, by one process or by several."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding


class Rows(NamedTuple):
    """Rows of an array that a process has.

    Attributes:
      total: how many there are on all processes.
      here: the numbers of those that are here, ascending.
    """

    total: int
    here: np.ndarray


def place_array(x: Any, place: NamedSharding, part: Rows | None = None) -> jax.Array:
    """Return an array where it is to lie, of which each process gives its own part.

    Args:
      x: the array, or rows of it.
      place: where it is to lie.
      part: which rows; None for all.

    Examples:
      >>> mesh = jax.make_mesh((1,), ("data",))
      >>> place = NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
      >>> place_array(np.ones((2, 3)), place).shape
      (2, 3)
    """
    if place.is_fully_addressable:  # then all rows are here
        return jax.device_put(x, place)
    if not getattr(x, "is_fully_addressable", True):  # nobody has all of it
        return jax.device_put(x, place)
    x = np.asarray(x)
    if x.ndim == 0:
        return jax.make_array_from_callback((), place, lambda index: x)
    rows = Rows(len(x), np.arange(len(x))) if part is None else part

    def read(index):
        start, stop, _ = index[0].indices(rows.total)
        there = np.searchsorted(rows.here, [start, stop]).tolist()
        return x[(slice(*there), *index[1:])]

    return jax.make_array_from_callback((rows.total, *x.shape[1:]), place, read)
