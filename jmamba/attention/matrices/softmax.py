"""Attention of layers that have a softmax: its rows, a few at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jmamba.layers.softmax import softmax_weights
from jmamba.types import SoftmaxAttention

ROWS_AT_ONCE = 64
"""Rows whose weights of all heads are in memory together, if heads are reduced."""


def attend_softmax(
    attention: SoftmaxAttention,
    rows: Int[Array, "q"],
    reduce: Callable[[Array], Array] | None = None,
) -> Array:
    """Return rows of all heads' matrices (b h q l), or what `reduce` makes of them.

    Args:
      attention: of a layer.
      rows: query positions.
      reduce: takes a column of every head, (b, h, q), and may reduce heads; None for
        the rows themselves.
    """
    if reduce is None:
        return _rows(attention, rows)

    def reduced(row):
        alpha = _rows(attention, row[None])  # b h 1 l
        return jnp.moveaxis(jax.vmap(reduce, 3, 0)(alpha), 0, -1)

    each = jax.lax.map(reduced, rows, batch_size=ROWS_AT_ONCE)  # q ... 1 l
    return jnp.moveaxis(each[..., 0, :], 0, -2)


def _rows(attention, rows):
    queries, keys, _, places, begins, _ = attention
    return softmax_weights(
        queries[:, rows], keys, places[:, rows], begins[:, rows], places,
        precision="highest",
    )  # fmt: skip
