"""What a caller may ask for: positions, layers, channels, and memory."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

RESULT_BYTES = 4 * 2**30
"""Bytes that one call may return before it asks for a reduction instead."""

WORKING_BYTES = 2**30
"""Bytes that derivatives may take on their way: directions in flight, vectors."""


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


def choose_layers(layers: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """Return layer numbers in ascending order, negative ones counted from the end.

    Raises:
      ValueError: a layer does not exist.
    """
    if layers is None:
        return tuple(range(count))
    wrong = [i for i in layers if not -count <= i < count]
    if wrong or not layers:
        raise ValueError(
            f"layers={list(layers)}: the model has layers 0 to {count - 1} "
            f"(or -{count} to -1); give at least one of them."
        )
    return tuple(sorted({i % count for i in layers}))


def check_memory(name: str, counts: dict[str, int], itemsize: int, limit: int) -> None:
    """Raise if a result would take too many bytes, and say what to ask for instead.

    Args:
      name: of the function that was called.
      counts: what the result has how many of.
      itemsize: bytes of a number.
      limit: bytes that the result may take.

    Raises:
      ValueError: it would take more.
    """
    size = math.prod(counts.values()) * itemsize
    if size <= limit:
        return
    product = " x ".join(f"{count} {what}" for what, count in counts.items())
    advice = "Ask for some rows=[...]"
    if "channels" in counts:
        advice += " or channels=[...], reduce over channels with reduced_attention(...)"
    raise ValueError(
        f"{name} would return {size / 2**30:.1f} GiB ({product}), over the limit of "
        f"{limit / 2**30:.1f} GiB. {advice}, or raise memory_limit."
    )
