"""Softmax attention itself: its weights, and what it makes of values."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmamba.types import KeyValues, SoftmaxAttention
from jmamba_kernels import accumulation_dtype

QUERIES_AT_ONCE = 512
"""Queries whose weights are in memory together."""


def softmax_weights(
    queries: Float[Array, "b q h n"],
    keys: Float[Array, "b t g n"],
    places: Int[Array, "b q"],
    begins: Int[Array, "b q"],
    slots: Int[Array, "#b t"],
    *,
    precision: Any = None,
) -> Float[Array, "b h q t"]:
    """Return the weights of chosen queries, in float32 or better.

        softmax over begins[i] <= slots[j] <= places[i] of queries[i] . keys[j]

    Args:
      queries: of every head.
      keys: of every group of heads.
      places: of the queries.
      begins: the first place that each sees.
      slots: places of the keys.
      precision: of the products.

    Examples:
      >>> ones, place = jnp.ones((1, 2, 1, 1)), jnp.arange(2)[None]
      >>> softmax_weights(ones, ones, place, 0 * place, place)[0, 0].tolist()
      [[1.0, 0.0], [0.5, 0.5]]
    """
    groups, dtype = keys.shape[2], accumulation_dtype(queries.dtype)
    batch, count, heads, width = queries.shape
    queries = queries.reshape(batch, count, groups, heads // groups, width)
    scores = jnp.einsum(
        "bqgan,btgn->bgaqt",
        queries,
        keys,
        precision=precision,
        preferred_element_type=dtype,
    )
    slots = slots[:, None]
    is_seen = (slots <= places[..., None]) & (slots >= begins[..., None])
    scores = jnp.where(is_seen[:, None, None], scores, -jnp.inf)
    return jax.nn.softmax(scores, axis=-1).reshape(batch, heads, count, -1)


def attend_values(
    attention: SoftmaxAttention, past: KeyValues | None = None
) -> tuple[Float[Array, "b l d"], KeyValues]:
    """Return what attention puts out, and keys and values with the new ones in place.

    Of long texts weights are made a few rows at a time, and again in the backward pass:
    no array (h, l, l) exists.

    Args:
      attention: of the new tokens.
      past: of earlier ones, with room for the new ones; what has no room is lost.
    """
    queries, keys, values, places, begins, _ = attention
    slots = places
    if past is not None:
        rows = jnp.arange(keys.shape[0])[:, None]
        keys, values = (
            old.at[rows, places].set(new.astype(old.dtype), mode="drop")
            for old, new in ((past.keys, keys), (past.values, values))
        )
        slots = jnp.arange(keys.shape[1], dtype=places.dtype)[None]
    mix = partial(_mix, keys=keys, values=values, slots=slots)
    if queries.shape[1] <= QUERIES_AT_ONCE:
        return mix((queries, places, begins)), KeyValues(keys, values)
    return _mix_in_parts(mix, (queries, places, begins)), KeyValues(keys, values)


def _mix(rows, *, keys, values, slots):
    queries, places, begins = rows
    alpha = softmax_weights(queries, keys, places, begins, slots)
    batch, count, heads, _ = queries.shape
    groups, width = values.shape[2:]
    alpha = alpha.reshape(batch, groups, heads // groups, count, -1)
    y = jnp.einsum("bgaqt,btgp->bqgap", alpha.astype(values.dtype), values)
    return y.reshape(batch, count, heads * width)


def _mix_in_parts(mix, rows):
    length = rows[0].shape[1]
    count = -(-length // QUERIES_AT_ONCE)

    def cut(x):  # b l ... -> parts b rows ...; padding sees the first token
        rest = ((0, 0),) * (x.ndim - 2)
        x = jnp.pad(x, ((0, 0), (0, count * QUERIES_AT_ONCE - length), *rest))
        x = x.reshape(x.shape[0], count, QUERIES_AT_ONCE, *x.shape[2:])
        return jnp.moveaxis(x, 1, 0)

    y = jax.lax.map(jax.checkpoint(mix), jax.tree.map(cut, rows))
    y = jnp.moveaxis(y, 0, 1)  # parts b rows d -> b parts rows d
    return y.reshape(y.shape[0], -1, y.shape[-1])[:, :length]
