"""Whole attention matrices of a channel, in products instead of exponentials."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jmamba.attention.matrices.cumulative import DoubleSum, cumulative_sum

LEAF = 16
"""Most tokens of a diagonal block, whose every decay is an exponential of its own."""


def whole_attention(
    delta: Float[Array, "l"],
    A: Float[Array, "rates"],
    B: Float[Array, "l n"],
    C: Float[Array, "l n"],
) -> Float[Array, "l l"]:
    """Return the attention matrix of a single channel or head, all rows of it.

    The same as `channel_attention` for all rows, by halving: where queries i and keys j
    lie on different sides of a boundary m, j < m <= i, decays factor into

        alpha[i, j] = sum_n (C[i, n] exp(A[n] sum_{m <= k <= i} delta[k]))
                            (exp(A[n] sum_{j < k < m} delta[k]) delta[j] B[j, n])

    a product of two matrices of l n exponentials, neither of which is above 1. Each
    half is cut again, down to diagonal blocks: O(l n log l) exponentials in place of
    O(l^2 n), the rest being matrix products.

    Args:
      delta: step sizes.
      A: decay rates, one for each state or one for all.
      B: input gates.
      C: output gates.

    Examples:
      >>> delta, ones = jnp.array([0.5, 1.0]), jnp.ones((2, 1))
      >>> alpha = whole_attention(delta, jnp.array([-1.0]), ones, ones)
      >>> alpha.shape, round(float(alpha[1, 0]), 3)  # exp(-1) 0.5
      ((2, 2), 0.184)

    References:
      Ali, Zimerman & Wolf, "The Hidden Attention of Mamba Models", ACL 2025, eq. 14-16,
      for the matrix.
    """
    length = delta.shape[0]
    blocks = 1
    while blocks * LEAF < length:
        blocks *= 2
    side = -(-length // blocks)  # rounded up
    size = side * blocks
    # padding has delta = 0: it weighs nothing and lets nothing decay
    delta, B, C = (
        jnp.pad(v, ((0, size - length),) + ((0, 0),) * (v.ndim - 1))
        for v in (delta, B, C)
    )
    S, weight = cumulative_sum(delta), delta[:, None] * B
    alpha = _diagonal_blocks(S, A, weight, C, side)
    while side < size:
        below = _blocks_below(S, A, weight, C, side)
        halves = alpha.reshape(-1, 2, side, side)
        above = jnp.zeros_like(below)
        alpha = jnp.concatenate(
            [
                jnp.concatenate([halves[:, 0], above], axis=2),
                jnp.concatenate([below, halves[:, 1]], axis=2),
            ],
            axis=1,
        )
        side *= 2
    return alpha[0, :length, :length]


def _diagonal_blocks(S, A, weight, C, side):
    """Return blocks of the diagonal, (blocks, side, side)."""
    high, low = (v.reshape(-1, side) for v in S)
    query = DoubleSum(high[:, :, None], low[:, :, None])
    elapsed = query.minus(DoubleSum(high[:, None], low[:, None]))
    causal = jnp.tri(side, dtype=bool)[None]
    C, weight = (v.reshape(-1, side, v.shape[1]) for v in (C, weight))

    def decay(rate):
        return jnp.exp(jnp.where(causal, rate * elapsed, -jnp.inf))

    if A.shape[0] < C.shape[2]:  # one rate
        alpha = jnp.einsum("pin,pjn->pij", C, weight, precision="highest")
        return alpha * decay(A[0])
    alpha = jnp.zeros_like(elapsed)
    for n in range(A.shape[0]):  # written out: an array with an axis n never exists
        alpha = alpha + C[:, :, None, n] * decay(A[n]) * weight[:, None, :, n]
    return alpha


def _blocks_below(S, A, weight, C, side):
    """Return the block of each pair of neighbours that lies below the diagonal."""
    high, low = (v.reshape(-1, 2, side) for v in S)
    first, second = (DoubleSum(high[:, k], low[:, k]) for k in (0, 1))
    boundary = DoubleSum(high[:, 0, -1:], low[:, 0, -1:])
    C, weight = (v.reshape(-1, 2, side, v.shape[1]) for v in (C, weight))
    since = second.minus(boundary)[:, :, None] * A[None, None]
    until = boundary.minus(first)[:, :, None] * A[None, None]
    queries = C[:, 1] * jnp.exp(since)
    keys = jnp.exp(until) * weight[:, 0]
    return jnp.einsum("pin,pjn->pij", queries, keys, precision="highest")
