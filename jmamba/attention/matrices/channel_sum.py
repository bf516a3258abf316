"""The sum of the attention matrices of all channels, as products of whole matrices."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jmamba.attention.matrices.channels import Channel, Direction, gates_of

LEAF = 8
"""Most tokens of a diagonal block, which is computed diagonal by diagonal."""


def sum_channels(
    directions: tuple[Direction, ...],
    mask: Bool[Array, "d b"] | None = None,
    *,
    at_once: int,
) -> Float[Array, "b l l"]:
    """Return the sum over channels of `attend(directions, None)`.

    Where queries i and keys j lie in neighbouring blocks of which one ends and the
    other starts at m, the sum over channels and states is one product of matrices,

        sum_dn (C[i, n] prod_{m<=k<=i} a[k]) (prod_{j<k<m} a[k] delta[j] B[j, n])

    with the decays a[k] = exp(delta[k] A) of a channel and state. Two such blocks then
    become one of twice the size by multiplying half of their factors with the decay of
    a whole block, so that the exponentials are O(l d n) in all. Numbers above 1 are
    never exponentiated and nothing is divided or subtracted.

    Args:
      directions: one or two.
      mask: which channels count, for each sample; None for all.
      at_once: channels whose factors (l, n) are in memory together.
    """
    total = _sum_direction(directions[0], mask, at_once)
    for backward in directions[1:]:
        alpha = _sum_direction(backward, mask, at_once)
        total = total + jnp.flip(alpha, axis=(1, 2))
    return total


def _sum_direction(direction: Direction, mask, at_once: int):
    own, B, C = direction
    channels, batch, length = own.delta.shape

    @jax.checkpoint  # derivatives make the factors again, a few channels at a time
    def part(channel, chosen):
        return _all_samples(channel, chosen, B, C)

    def add(total, chunk):
        return total + part(*chunk), None

    whole = channels // at_once * at_once
    chunks = jax.tree.map(
        lambda x: x[:whole].reshape(-1, at_once, *x.shape[1:]), (own, mask)
    )
    total = jnp.zeros((batch, length, length), own.delta.dtype)
    total, _ = jax.lax.scan(add, total, chunks)
    if whole < channels:
        total, _ = add(total, jax.tree.map(lambda x: x[whole:], (own, mask)))
    return total


def _sum_sample(channel: Channel, mask, B, C):
    """Return the summed matrix of one sample, with all that is folded in."""
    delta, A, D, slope, taps, gate, group = channel
    B, C = gates_of(group, B), gates_of(group, C)
    if mask is not None:
        ones = jnp.ones_like(delta) if gate is None else gate
        gate = jnp.where(mask[:, None], ones, 0)

    def total(gate):
        alpha = _sum_products(delta, A, B, C, gate, slope)
        if D is None:
            return alpha
        factors = (v for v in (slope, gate) if v is not None)
        skip = jnp.broadcast_to(D[:, None], delta.shape)
        for v in factors:
            skip = skip * v
        return alpha + jnp.diag(jnp.sum(skip, axis=0))

    if taps is None:
        return total(gate)
    gate = jnp.ones_like(delta) if gate is None else gate
    alphas = jax.vmap(lambda tap: total(gate * tap[:, None]))(taps.T)
    length, window = delta.shape[1], taps.shape[1]
    ahead = jnp.pad(alphas, ((0, 0), (0, 0), (0, window - 1)))
    shifted = (
        ahead[window - 1 - back, :, back : back + length] for back in range(window)
    )
    return sum(shifted, start=jnp.zeros_like(alphas[0]))


_sample_axes = Channel(1, None, None, 1, None, 1, None)  # pyright: ignore[reportArgumentType]
_all_samples = jax.vmap(_sum_sample, in_axes=(_sample_axes, 1, 0, 0))


def _sum_products(delta, A, B, C, gate, slope):
    """Return sum_c gate[c, i] alpha[c, i, j] slope[c, j], from (c, l) and (l, n).

    B and C may also be of each channel, (l, c, n).
    """
    length = delta.shape[1]
    blocks = 1
    while blocks * LEAF < length:
        blocks *= 2
    side = -(-length // blocks)  # rounded up

    def cut(x):  # l ... -> p s ...; padding has delta = 0, which weighs nothing
        rest = ((0, 0),) * (x.ndim - 1)
        padded = jnp.pad(x, ((0, side * blocks - length), *rest))
        return padded.reshape(blocks, side, *x.shape[1:])

    def shared(x):  # p s n -> p s 1 n
        return x[:, :, None] if x.ndim == 3 else x

    delta = cut(delta.T)
    keys = delta[..., None] * shared(cut(B))
    keys = keys if slope is None else keys * cut(slope.T)[..., None]
    queries = jnp.broadcast_to(shared(cut(C)), keys.shape)
    queries = queries if gate is None else queries * cut(gate.T)[..., None]
    alpha, queries, keys = _diagonal_blocks(delta, A, queries, keys)
    elapsed = jnp.sum(delta, axis=1)  # p c
    while alpha.shape[0] > 1:
        alpha, queries, keys, elapsed = _merge(alpha, queries, keys, elapsed, A)
    return alpha[0, :length, :length]


def _diagonal_blocks(delta, A, queries, keys):
    """Return blocks (p, s, s), queries since their start, keys until their end."""
    side = delta.shape[1]
    decay = jnp.exp(delta[..., None] * A[None, None])
    since, diagonals, until = [decay[:, :1]], [], []
    for offset in range(side):  # keys that have decayed over so many tokens
        weights = jnp.sum(queries[:, offset:] * keys, axis=(2, 3))
        diagonals.append(jnp.pad(weights, ((0, 0), (0, offset))))
        until.append(keys[:, -1:])
        if offset + 1 < side:
            keys = keys[:, :-1] * decay[:, offset + 1 :]
            since.append(since[-1] * decay[:, offset + 1 : offset + 2])
    table = jnp.stack(diagonals, axis=1)  # p offset j
    query, key = jnp.arange(side)[:, None], jnp.arange(side)[None]
    alpha = jnp.where((query >= key)[None], table[:, query - key, key], 0)
    queries = queries * jnp.concatenate(since, axis=1)
    return alpha, queries, jnp.concatenate(until[::-1], axis=1)


def _merge(alpha, queries, keys, elapsed, A):
    """Return the same of blocks twice as large."""
    (first, second), (early, late), (Q1, Q2), (K1, K2) = (
        (x[0::2], x[1::2]) for x in (alpha, elapsed, queries, keys)
    )

    def rows(x):  # p s c n -> p s (c n)
        return x.reshape(*x.shape[:2], -1)

    below = jnp.einsum("pix,pjx->pij", rows(Q2), rows(K1), precision="highest")
    upper = jnp.concatenate([first, jnp.zeros_like(below)], axis=2)
    alpha = jnp.concatenate([upper, jnp.concatenate([below, second], axis=2)], axis=1)
    before, after = (jnp.exp(e[..., None] * A[None])[:, None] for e in (early, late))
    queries = jnp.concatenate([Q1, Q2 * before], axis=1)
    keys = jnp.concatenate([K1 * after, K2], axis=1)
    return alpha, queries, keys, early + late
