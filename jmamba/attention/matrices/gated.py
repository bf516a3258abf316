"""Attention of gated recurrences: rows go back from their query, key by key.

For a row i start with x = queries[i]. For each key j from i down to 0,

    alpha[i, j] = w[j] x . keys[j],    then x <- G[j]^T x

so that a row costs O(l n) and all rows O(l^2 n) per head, as a product of matrices
would; no array has two axes of tokens but what is returned.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmamba.attention.matrices.softmax import attend_softmax
from jmamba.recurrences.maxima import divisor, running_maxima
from jmamba.types import GatedRecurrence, OfHeads, SoftmaxAttention


def attend_heads(
    recurrence: OfHeads,
    rows: Int[Array, "q"],
    reduce: Callable[[Array], Array] | None = None,
) -> Array:
    """Return rows of all heads' matrices (b h q l), or what `reduce` makes of them.

    Args:
      recurrence: of a layer.
      rows: query positions.
      reduce: takes a column of every head, (b, h, q), and may reduce heads, which keeps
        matrices of all heads from being made; None for the rows themselves.
    """
    if isinstance(recurrence, SoftmaxAttention):
        return attend_softmax(recurrence, rows, reduce)
    return attend_gated(recurrence, rows, reduce or (lambda column: column))


def attend_gated(
    recurrence: GatedRecurrence,
    rows: Int[Array, "q"],
    reduce: Callable[[Array], Array] = lambda column: column,
) -> Float[Array, "b *reduced l"]:
    """Return rows of all heads' matrices (b h q l), or what `reduce` makes of them.

    Args:
      recurrence: with b, l and h.
      rows: query positions.
      reduce: takes a column of every head, (b, h, q), and may reduce heads: columns
        are reduced one by one, before there are matrices.

    References:
      Ali, Zimerman & Wolf, ACL 2025, appendix on other layers; the adjoint recurrence
      is our own derivation.
    """
    read = running_maxima(recurrence).read[:, rows]  # b q h
    read = jnp.swapaxes(read, 1, 2)
    queries = jnp.swapaxes(recurrence.queries[:, rows], 1, 2)  # b h q n
    sums = jnp.ones_like(read)
    if recurrence.floor is not None:
        sums, _ = _go_back(recurrence, rows, queries, read, lambda column: None)
        sums = divisor(sums, recurrence.floor[None, :, None], read)
    _, columns = _go_back(
        recurrence, rows, queries, read, lambda column: reduce(column / sums)
    )
    return jnp.moveaxis(columns, 0, -1)


def _go_back(recurrence, rows, queries, read, emit):
    """Return the sum of alpha's columns (b h q), and what `emit` makes of each.

    They are over exp(read), and not yet divided by their sums. What queries are
    multiplied with is kept apart where one number per head will do:
    its logarithm cannot overflow beside the weights'.
    """
    has_one_decay = recurrence.log_decay.shape[-1] == 1
    each = recurrence.bare._replace(bonus=None, floor=None)
    tokens = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), each)
    places = jnp.arange(recurrence.keys.shape[1])

    def step(carry, token):
        x, log_x, total = carry
        place, each = token
        is_own, is_seen = rows[None, None] == place, rows[None, None] >= place
        log_weight = 0.0 if each.log_weights is None else each.log_weights[..., None]
        key = each.keys[..., None, :]
        if recurrence.bonus is not None:
            own = recurrence.bonus[None, :, None] * key
            key = jnp.where(is_own[..., None], own, key)
        alpha = jnp.sum(x * key, axis=-1) * jnp.exp(
            jnp.where(is_seen, log_x + log_weight - read, -jnp.inf)
        )
        goes_on = is_seen if recurrence.bonus is None else is_seen & ~is_own
        log_a = each.log_decay[..., None, :]
        gone = x
        if each.erasure is not None:
            writes, reads = each.erasure
            held = jnp.einsum("bhn,bhqn->bhq", writes, x)
            gone = x - held[..., None] * reads[..., None, :]
        if has_one_decay:
            log_x = log_x + jnp.where(goes_on, log_a[..., 0], 0.0)
        else:
            gone = gone * jnp.exp(log_a)
        x = jnp.where(goes_on[..., None], gone, x)
        return (x, log_x, total + alpha), emit(alpha)

    start = queries, jnp.zeros_like(read), jnp.zeros_like(read)
    (_, _, total), columns = jax.lax.scan(step, start, (places, tokens), reverse=True)
    return total, columns
