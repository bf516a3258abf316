"""The query's row of every channel: as defined, and as released."""

from collections.abc import Collection

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmamba.attention.matrices.channels import (
    Direction,
    attend,
    map_channels,
    open_directions,
)
from jmamba.attention.matrices.factors import AnyInputs
from jmamba.attention.matrices.gated import attend_heads
from jmamba.types import OF_HEADS, OfHeads, SideBySide

CHANNELS_AT_ONCE = 8
"""Channels whose whole matrices are in memory together."""


def query_rows(
    recurrence: AnyInputs | OfHeads | SideBySide,
    query: Int[Array, "b"] | None,
    *,
    fold: Collection[str] = (),
    exact: bool = True,
) -> Float[Array, "b d l"]:
    """Return the query's row of every channel; the mean row if there is no query.

    Args:
      recurrence: of a layer, or its `factorise`.
      query: a token of each sample, counted from 0.
      fold: what else is part of the matrices; of softmax attention and of gated
        recurrences nothing is.
      exact: whether the row is the definition's, or that of `released_row`; theirs is
        always the definition's.
    """
    if isinstance(recurrence, SideBySide):
        own = query_rows(recurrence.recurrent, query, fold=fold, exact=exact)
        other = _rows_of_heads(recurrence.attention, query)
        return jnp.concatenate([own, other.astype(own.dtype)], axis=1)
    if isinstance(recurrence, OfHeads):
        return _rows_of_heads(recurrence, query)
    directions = open_directions(recurrence, fold)
    if query is None:
        mean = map_channels(
            directions,
            lambda one: jnp.mean(attend(one, None)[0], axis=1),
            CHANNELS_AT_ONCE,
        )
        return jnp.swapaxes(mean, 0, 1)
    if exact:
        return jnp.swapaxes(attend(directions, query[:, None])[:, :, 0], 0, 1)
    return jnp.swapaxes(released_row(directions, query), 0, 1)


def _rows_of_heads(recurrence: OfHeads, query):
    if query is None:
        every = jnp.arange(recurrence.queries.shape[1])
        return jnp.mean(attend_heads(recurrence, every), axis=2)
    kind, parts = type(recurrence), recurrence._asdict()
    shared = {name: x for name, x in parts.items() if name in OF_HEADS}
    each = {name: x for name, x in parts.items() if name not in OF_HEADS}

    def one(each, query):
        alone = jax.tree.map(lambda x: x[None], each)
        return attend_heads(kind(**alone, **shared), query[None])[0, :, 0]

    return jax.vmap(one)(each, query)


def released_row(
    directions: tuple[Direction, ...], query: Int[Array, "b"]
) -> Float[Array, "d b l"]:
    """Return the row that the released code of 2024 computes, off by one.

        sum_n C[i, n] exp(A[n] sum_{j < k <= i-1} delta[k]) delta[j] B[j, n]   for j < i

    from the forward direction, the same from the backward one for j > i, and 0 for i
    itself: the query's own decay and weight are missing. It is the row i - 1 with the
    output gates of row i.

    Args:
      directions: of a layer.
      query: i, of each sample.

    References:
      The code of Ali, Zimerman & Wolf, "The Hidden Attention of Mamba Models".
    """
    length = directions[0].B.shape[1]
    total: Array | None = None
    samples = jnp.arange(directions[0].B.shape[0])
    for number, one in enumerate(directions):
        place = query if number == 0 else length - 1 - query
        before = jnp.maximum(place - 1, 0)
        C = one.C.at[samples, before].set(one.C[samples, place])
        row = attend((one._replace(C=C),), before[:, None])[:, :, 0]
        row = jnp.where((place > 0)[None, :, None], row, 0)
        row = row if number == 0 else jnp.flip(row, axis=2)
        total = row if total is None else total + row
    assert total is not None
    return total
