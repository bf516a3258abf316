"""Choosing tokens, channels or layers by number."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def choose_positions(
    positions: Sequence[int] | None, size: int, name: str
) -> Int[Array, "q"]:
    """Return positions as an array, negative ones counted from the end.

    Raises:
      ValueError: a position does not exist, or none is given.
    """
    if positions is None:
        return jnp.arange(size)
    wrong = [int(i) for i in positions if not -size <= i < size]
    if wrong or len(positions) == 0:
        raise ValueError(
            f"{name}={list(map(int, positions))}: positions go from 0 to {size - 1} "
            f"(or -{size} to -1); give at least one of them."
        )
    return jnp.asarray([int(i) % size for i in positions])


def take_token(
    x: Float[Array, "b l m"], query: int | Int[Array, "b"]
) -> Float[Array, "b m"]:
    """Return one token of each sample, the same for all or one for each.

    Examples:
      >>> x = jnp.arange(6.0).reshape(2, 3, 1)
      >>> take_token(x, jnp.array([2, 0]))[:, 0].tolist()
      [2.0, 3.0]
    """
    if isinstance(query, int):
        return x[:, query]
    return jnp.take_along_axis(x, query[:, None, None], axis=1)[:, 0]
