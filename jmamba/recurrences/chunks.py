"""The delta rule in chunks of tokens: products of matrices, and few steps."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmamba.types import GatedRecurrence
from jmamba_kernels.ssd.sums import running_sums

CHUNK = 64
"""Tokens whose matrix stands in memory together."""


def fits_chunks(recurrence: GatedRecurrence) -> bool:
    """Say whether tokens decay a head by one number, and are not weighed.

    Examples:
      >>> from jmamba.recurrences import delta_net
      >>> ones = jnp.ones((1, 3, 1, 2))
      >>> fits_chunks(delta_net(ones, ones, ones, ones[..., 0]))
      True
    """
    apart = recurrence.log_weights, recurrence.bonus, recurrence.floor
    return recurrence.log_decay.shape[-1] == 1 and all(x is None for x in apart)


def run_in_chunks(
    recurrence: GatedRecurrence,
    state: Float[Array, "b h n p"] | None = None,
    segment_ids: Int[Array, "b l"] | None = None,
    *,
    chunk: int = CHUNK,
) -> tuple[Float[Array, "b l h p"], Float[Array, "b h n p"]]:
    """Return what a recurrence puts out, and its last state.

    Within a chunk let L[i, j] = exp(log_decay[j+1] + ... + log_decay[i]) for j <= i,
    and S the state before it. What is written, U = V - (what was held), solves a
    triangular system, so that all else is products,

        (I + stril(F K^T * L)) U = V - exp(c) F S
        y = exp(c) Q S + tril(Q K^T * L) U
        S <- exp(c_last) S + (exp(c_last - c) K)^T U

    with Q, K, V, F the chunk's queries, keys, values and `erase_reads`, and c the
    cumulated log_decay. Where the erasure has writes E of its own, what was held is
    solved for by itself: (I + stril(F E^T * L)) R = stril(F K^T * L) V + exp(c) F S,
    and K U becomes K V - E R.

    Args:
      recurrence: one that `fits_chunks`.
      state: before the first token; None for zero.
      segment_ids: of packed sequences; the state is reset where they change.
      chunk: tokens that are taken together.

    Examples:
      >>> from jmamba.recurrences import delta_net
      >>> keys = jnp.eye(2)[None, jnp.array([0, 1, 0])][:, :, None]  # a, b, a
      >>> values = jnp.array([1.0, 2.0, 5.0])[None, :, None, None]
      >>> rule = delta_net(keys, keys, values, jnp.ones((1, 3, 1)))
      >>> y, state = run_in_chunks(rule, chunk=2)
      >>> [round(float(v), 3) for v in state[0, 0, :, 0]]  # a holds 5, not 1 + 5
      [5.0, 2.0]

    References:
      Yang et al., "Parallelizing Linear Transformers with the Delta Rule", arXiv
      2406.06484, section 3; "Gated Delta Networks", arXiv 2412.06464, section 3.3.
    """
    batch, length, heads, n = recurrence.keys.shape
    p, dtype = recurrence.values.shape[-1], recurrence.log_decay.dtype
    size = min(chunk, length)
    new = _segment_starts(segment_ids, (batch, length))

    def cut(x):  # b l h ... -> chunks b h t ...
        rest = ((0, 0),) * (x.ndim - 2)
        x = jnp.pad(x, ((0, 0), (0, -length % size), *rest))
        x = x.reshape(batch, -1, size, *x.shape[2:])
        return jnp.moveaxis(x, (1, 3), (0, 2)) if x.ndim > 3 else jnp.moveaxis(x, 1, 0)

    parts: dict[str, Any] = {
        name: x if x is None else cut(x.astype(dtype))
        for name, x in recurrence.bare._asdict().items()
    }
    each, resets = GatedRecurrence(**parts), jnp.cumsum(cut(new), axis=-1)
    start = jnp.zeros((batch, heads, n, p), dtype) if state is None else state
    last, y = jax.lax.scan(
        jax.checkpoint(_run_chunk), start.astype(dtype), (each, resets)
    )
    y = jnp.moveaxis(y, (0, 2), (1, 3)).reshape(batch, -1, heads, p)
    return y[:, :length].astype(recurrence.values.dtype), last


def _segment_starts(segment_ids, shape) -> Int[Array, "b l"]:
    if segment_ids is None:
        return jnp.zeros(shape, jnp.int32)
    is_new = segment_ids[:, 1:] != segment_ids[:, :-1]
    return jnp.pad(is_new.astype(jnp.int32), ((0, 0), (1, 0)))


def _run_chunk(state, chunk):
    """Return the state after a chunk, and what the chunk puts out."""
    each, resets = chunk
    c, between = running_sums(each.log_decay[..., 0])  # b h t, b h t t
    same = (resets[:, :, None] == resets[:, None, :])[:, None]
    goes_on = (resets == 0)[:, None]
    lasts = (resets == resets[:, -1:])[:, None]
    is_seen = same & jnp.tri(c.shape[-1], dtype=bool)[None, None]
    decay = jnp.exp(jnp.where(is_seen, between, -jnp.inf))  # the exponent is masked
    entering = jnp.where(goes_on, jnp.exp(c), 0)[..., None]
    leaving = jnp.where(lasts, jnp.exp(between[..., -1, :]), 0)[..., None]
    left = jnp.where(goes_on[..., -1], jnp.exp(c[..., -1]), 0)[..., None, None]
    q, k, v = each.queries, each.keys, each.values
    read = entering * _times(q, state)
    if each.erasure is None:
        shown = _times(_against(q, k) * decay, v)
        made = _pull(leaving * k, v)
    else:
        e, f = each.erasure
        strict = jnp.where(jnp.eye(c.shape[-1], dtype=bool)[None, None], 0, decay)
        inverse = invert_unit_lower(_against(f, e) * strict)
        held = entering * _times(f, state)
        if each.erase_writes is None:
            written = _times(inverse, v - held)
            shown = _times(_against(q, k) * decay, written)
            made = _pull(leaving * k, written)
        else:
            held = held + _times(_against(f, k) * strict, v)
            taken = _times(inverse, held)
            shown = _times(_against(q, k) * decay, v)
            shown = shown - _times(_against(q, e) * decay, taken)
            made = _pull(leaving * k, v) - _pull(leaving * e, taken)
    return left * state + made, read + shown


@jax.custom_jvp
def invert_unit_lower(N: Float[Array, "*b t t"]) -> Float[Array, "*b t t"]:
    """Return (I + N)^-1 of strictly lower triangular N, by halves.

        inv [[A, 0], [C, B]] = [[inv A, 0], [-inv B C inv A, inv B]]

    All blocks of one size are inverted together, in log2(t) pairs of products; the
    derivative is -inv dN inv.

    Args:
      N: what is on or above the diagonal is not read.

    Examples:
      >>> N = jnp.array([[0.0, 0, 0], [2, 0, 0], [3, 4, 0]])
      >>> invert_unit_lower(N).tolist()
      [[1.0, 0.0, 0.0], [-2.0, 1.0, 0.0], [5.0, -4.0, 1.0]]
    """
    size = N.shape[-1]
    whole = 1 << (size - 1).bit_length()
    ends = [(0, 0)] * (N.ndim - 2) + [(0, whole - size)] * 2
    N = jnp.pad(N, ends)
    inverse = jnp.ones((*N.shape[:-2], whole, 1, 1), N.dtype)  # blocks of the diagonal
    width = 1
    while width < whole:
        blocks = N.reshape(*N.shape[:-2], whole // width, width, whole // width, width)
        odd = jnp.arange(1, whole // width, 2)
        below = jnp.moveaxis(blocks, -2, -3)[..., odd, odd - 1, :, :]
        first, second = inverse[..., ::2, :, :], inverse[..., 1::2, :, :]
        corner = -_times(second, _times(below, first))
        upper = jnp.concatenate([first, jnp.zeros_like(first)], axis=-1)
        lower = jnp.concatenate([corner, second], axis=-1)
        inverse, width = jnp.concatenate([upper, lower], axis=-2), 2 * width
    return inverse[..., 0, :size, :size]


@invert_unit_lower.defjvp
def _differentiate_inverse(primals, tangents):
    inverse = invert_unit_lower(*primals)
    change = jnp.tril(tangents[0], -1)
    return inverse, -_times(inverse, _times(change, inverse))


def _times(x, y):
    return jnp.matmul(x, y, precision="highest")


def _against(x, y):  # t n, s n -> t s
    return jnp.einsum("...tn,...sn->...ts", x, y, precision="highest")


def _pull(x, y):  # t n, t p -> n p
    return jnp.einsum("...tn,...tp->...np", x, y, precision="highest")
