"""Maps of relevance: scaled to [0, 1], the lowest discarded, rolled out over layers."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jmamba.ops.meshes import on_any_mesh


@on_any_mesh
def min_max(x: Float[Array, "b *rest"]) -> Float[Array, "b *rest"]:
    """Return each sample scaled to [0, 1]; a constant one becomes 0.

    Args:
      x: a map of each sample.

    Examples:
      >>> min_max(jnp.array([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]])).tolist()
      [[0.0, 1.0, 0.5], [0.0, 0.0, 0.0]]
    """
    axes = tuple(range(1, x.ndim))
    low = jnp.min(x, axis=axes, keepdims=True)
    extent = jnp.max(x, axis=axes, keepdims=True) - low
    return (x - low) / jnp.where(extent > 0, extent, 1)


@on_any_mesh
def discard_lowest(
    x: Float[Array, "b *rest"], part: float, counted: Bool[Array, "b *rest"]
) -> Float[Array, "b *rest"]:
    """Return each sample with its lowest weights set to 0.

    Args:
      x: a map of each sample.
      part: how many of the weights that count, as a part of them, rounded down.
      counted: which weights count; the others are left as they are.

    Examples:
      >>> x = jnp.array([[3.0, -1.0, 2.0, 9.0]])
      >>> discard_lowest(x, 0.5, jnp.ones((1, 4), bool)).tolist()
      [[3.0, 0.0, 0.0, 9.0]]
    """
    flat = jnp.where(counted, x, jnp.inf).reshape(x.shape[0], -1)
    rank = jnp.argsort(jnp.argsort(flat, axis=1), axis=1)
    number = jnp.sum(counted.reshape(flat.shape), axis=1, keepdims=True)
    gone = jnp.floor(number.astype(jnp.float32) * part + 1e-4)  # 0.6 x 5 is 3
    return jnp.where((rank < gone.astype(rank.dtype)).reshape(x.shape), 0, x)


@on_any_mesh
def roll_out(
    layers: Float[Array, "s b l l"] | Float[Array, "s b l"],
    start: Float[Array, "b l"],
    *,
    row_normalise: bool,
) -> Float[Array, "b l"]:
    """Return start T[last] ... T[first], T = I + attention.

    Args:
      layers: matrices, or single rows a that stand for the matrix of equal rows 1 a^T.
      start: weights of the rows that are asked for, one-hot for a single one.
      row_normalise: whether each row of T is divided by its sum.

    Examples:
      >>> half = jnp.full((2, 1, 2, 2), 0.5)
      >>> roll_out(half, jnp.array([[1.0, 0.0]]), row_normalise=True).tolist()
      [[0.625, 0.375]]
    """

    def step(row, a):
        if a.ndim == 3:
            sums = 1 + jnp.sum(a, axis=-1)
            row = row / sums if row_normalise else row
            row = row + jnp.einsum("bi,bij->bj", row, a, precision="highest")
        else:
            row = row + jnp.sum(row, axis=1, keepdims=True) * a
            sums = 1 + jnp.sum(a, axis=1, keepdims=True)
            row = row / sums if row_normalise else row
        return row, None

    return jax.lax.scan(step, start, layers, reverse=True)[0]


def start_rows(
    query: Int[Array, "b *q"] | None, shape: tuple[int, int], dtype: Any
) -> Float[Array, "b l"]:
    """Return how much each token's row is asked for: 1 in sum.

    Args:
      query: a token of each sample, or several, which count alike; None for all.
      shape: samples and tokens.
      dtype: of the result.

    Examples:
      >>> start_rows(jnp.array([[0, 1]]), (1, 3), jnp.float32).tolist()
      [[0.5, 0.5, 0.0]]
    """
    if query is None:
        return jnp.full(shape, 1 / shape[1], dtype)
    rows = jax.nn.one_hot(query, shape[1], dtype=dtype)
    return rows if rows.ndim == 2 else jnp.mean(rows, axis=1)
