"""What layers hold, cut into the parts of runs and put together again."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jmamba.types import ByRun


def cut_by_runs(own: Any, layers: Sequence[slice]) -> list[Any]:
    """Return the part of each run of what has a leading axis of layers.

    Args:
      own: a pytree of arrays, and of what `join_layers` put together.
      layers: of each run; the first layer is the first of `own`.
    """
    if len(layers) == 1:
        return [own]
    first = layers[0].start

    def part(number: int, x: Any) -> Any:
        if isinstance(x, ByRun):
            return x.parts[number]
        return x[layers[number].start - first : layers[number].stop - first]

    return [
        jax.tree.map(
            lambda x, number=number: part(number, x),
            own,
            is_leaf=lambda x: isinstance(x, ByRun),
        )
        for number in range(len(layers))
    ]


def join_layers(parts: Sequence[Any]) -> Any:
    """Return what consecutive runs of layers made, stacked along the leading axis.

    Where runs made other trees or shapes, there is a `ByRun` of them; of a tuple each
    element is joined by itself.

    Args:
      parts: of each run.

    Examples:
      >>> ones = jnp.ones((2, 3))
      >>> join_layers([ones, ones]).shape
      (4, 3)
      >>> both, shared = join_layers([(ones, ones), (ones[:, :1], ones)])
      >>> type(both).__name__, shared.shape
      ('ByRun', (4, 3))
    """
    if len(parts) == 1:
        return parts[0]
    if len({_kind(part) for part in parts}) == 1:
        return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
    if all(type(part) is tuple and len(part) == len(parts[0]) for part in parts):
        return tuple(map(join_layers, zip(*parts, strict=True)))
    return ByRun(tuple(parts))


def _kind(part: Any) -> tuple:
    """Return what parts must have in common to be stacked."""
    leaves, tree = jax.tree.flatten(part)
    return tree, tuple((x.shape[1:], x.dtype) for x in leaves)
