"""Where something is read or changed: a name, layers, tokens, channels."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Int

from jmamba.layers.places import Place

Selection = (
    int | np.integer | Sequence[int] | Int[Array, "..."] | Int[np.ndarray, "..."] | None
)
"""Some of what there is along an axis, negative numbers from the end; None for all."""

AXES = ("layers", "positions", "channels", "heads", "states")
"""What a point selects along."""


@partial(jax.tree_util.register_dataclass, data_fields=list(AXES), meta_fields=["name"])
@dataclasses.dataclass(frozen=True)
class Point:
    """A named place, and which part of what passes there.

    A pytree: the name is static and all selections are traced, so that another layer or
    token needs no other program.

    Attributes:
      name: of the place, see `locate_place`.
      layers: which layers; None for all.
      positions: which tokens, in the order of the text or of the residual stream.
      channels: which entries of the axis behind the tokens: channels, width, groups.
      heads: which heads of a recurrence, each standing for its channels.
      states: which states, of what has an axis of them.

    Examples:
      >>> Point("delta", layers=[0, 2], positions=-1).name
      'delta'
    """

    name: str
    layers: Any = None
    positions: Any = None
    channels: Any = None
    heads: Any = None
    states: Any = None

    def __post_init__(self):
        """Make arrays of lists of numbers: each is one leaf of the pytree."""
        for axis in AXES:
            choice = getattr(self, axis)
            if isinstance(choice, list | tuple | range):
                object.__setattr__(self, axis, np.asarray(choice, np.int32))


def members(choice: Any, size: int) -> Bool[Array, "size"]:
    """Return which of `size` entries are chosen."""
    if choice is None:
        return jnp.ones(size, bool)
    chosen = jnp.atleast_1d(jnp.asarray(choice, jnp.int32))
    chosen = jnp.where(chosen < 0, chosen + size, chosen)
    return jnp.any(jnp.arange(size)[:, None] == chosen[None], axis=1)


def mask_of(
    point: Point, place: Place, shape: tuple[int, ...], heads: int
) -> Bool[Array, "..."]:
    """Return what a point selects of a value at its place, its layers aside.

    Args:
      point: what is selected.
      place: the place.
      shape: of a value there.
      heads: how many heads the recurrence has.

    Returns:
      An array that can be broadcast to the shape.
    """
    mask = jnp.ones((1,) * len(shape), bool)
    for axis, size in enumerate(shape):
        for chosen in _chosen(point, place.axes[axis], axis, size, heads):
            view = [1] * len(shape)
            view[axis] = size
            mask = mask & chosen.reshape(view)
    return mask


def _chosen(point, letter, axis, size, heads):
    """Yield what a point selects along one axis."""
    if letter == "l" and point.positions is not None:
        yield members(point.positions, size)
    if letter == "n" and point.states is not None:
        yield members(point.states, size)
    if axis == 2 and point.channels is not None:
        yield members(point.channels, size)
    if axis == 2 and point.heads is not None:
        yield jnp.repeat(members(point.heads, heads), size // heads)


def check_point(
    point: Point, place: Place, shape: tuple[int, ...], num_layers: int, heads: int
) -> None:
    """Raise unless all that a point selects is there; what is traced is not checked.

    Args:
      point: what is selected.
      place: the place.
      shape: of a value there.
      num_layers: of the model, 0 for a place outside of the layers.
      heads: how many heads the recurrence has.

    Raises:
      ValueError: there is no such layer, token, channel, head or state.
    """
    sizes = {"layers": num_layers}
    for axis, (letter, size) in enumerate(zip(place.axes, shape, strict=False)):
        if letter == "l":
            sizes["positions"] = size
        if letter == "n" and size > 1:
            sizes["states"] = size
        if axis == 2:
            sizes["channels"] = size
            if letter in "dh" and size % heads == 0:
                sizes["heads"] = heads
    if not place.axes:
        sizes |= {"channels": shape[2], "heads": heads}
    for axis in AXES:
        choice = getattr(point, axis)
        if choice is None:
            continue
        size = sizes.get(axis, 0)
        if not size:
            has = ", ".join(name for name, size in sizes.items() if size)
            raise ValueError(f"{point.name!r} has no {axis} to choose; it has {has}.")
        if isinstance(choice, Tracer):
            continue
        _check_numbers(axis, np.asarray(choice), size, point.name)


def _check_numbers(axis, numbers, size, name):
    if numbers.dtype.kind not in "iu" or numbers.ndim > 1:
        raise ValueError(
            f"{axis}={numbers.tolist()!r} of {name!r}: give one integer, or a list."
        )
    if numbers.size and (numbers.min() < -size or numbers.max() >= size):
        raise ValueError(
            f"{axis}={numbers.tolist()} of {name!r} is out of range: give 0 to "
            f"{size - 1} (or -{size} to -1)."
        )


def may_meet(one: Point, other: Point, sizes: dict[str, int]) -> bool:
    """Return whether two points of one name select a number in common.

    What is traced counts as apart.

    Args:
      one: the first.
      other: the second.
      sizes: how many layers, positions, ... there are.
    """
    for axis in AXES:
        first, second = getattr(one, axis), getattr(other, axis)
        if isinstance(first, Tracer) or isinstance(second, Tracer):
            return False
        if first is None or second is None:
            continue
        size = sizes.get(axis)
        chosen = [np.atleast_1d(np.asarray(x)) for x in (first, second)]
        if size:
            chosen = [x % size for x in chosen]
        if not np.isin(chosen[0], chosen[1]).any():
            return False
    return True
