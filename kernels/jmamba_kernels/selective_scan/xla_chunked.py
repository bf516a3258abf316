"""The XLA form for accelerators: an associative scan inside each chunk of tokens.

A token loop would cost a kernel launch per token there. Nothing of shape
(b, l, d, n) exists: chunks follow each other in a loop, and the cotangent recomputes
a chunk's states from the saved ones. Derivatives are written out, not taken through
`associative_scan`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jmamba_kernels.selective_scan.contract import CHUNK, num_chunks
from jmamba_kernels.selective_scan.recurrence import (
    BareOperands,
    RecurrenceMaps,
    gather_groups,
    implementation,
    spread,
)


class _Chunk(NamedTuple):
    """The time-dependent operands of `CHUNK` tokens; t is the time inside it."""

    u: Float[Array, "t b d"]
    delta: Float[Array, "t b d"]
    B: Float[Array, "t b n g"]
    C: Float[Array, "t b n g"]
    keep: Array | None


def _split(x, axis):
    """Cut a time axis into chunks, (..., l, ...) -> (m, t, ...), padding with zeros."""
    x = jnp.moveaxis(x, axis, 0)
    chunks = num_chunks(x.shape[0])
    pad = [(0, chunks * CHUNK - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, pad).reshape(chunks, CHUNK, *x.shape[1:])


def _join(x, length, axis):
    """Undo `_split`."""
    return jnp.moveaxis(x.reshape(-1, *x.shape[2:])[:length], 0, axis)


def _chunks(r: BareOperands) -> _Chunk:
    # padding with zeros is the identity: delta = 0 keeps the state, if it is kept
    keep = None if r.keep is None else ~_split(~r.keep, 1)
    u, delta, B, C = (_split(x, 1) for x in (r.u, r.delta, r.B, r.C))
    return _Chunk(u, delta, B, C, keep)


def _decay(A, x: _Chunk):
    A_bar = jnp.exp(x.delta[:, :, None] * A[None, None])  # t b n d
    if x.keep is None:
        return A_bar
    return jnp.where(x.keep[:, :, None, None], A_bar, 0)


def _linear_scan(a, x, h, *, reverse=False):
    """Return h[t] = a[t] h[t-1] + x[t] for all t, from h before the first token."""

    def combine(left, right):
        return left[0] * right[0], left[1] * right[0] + right[1]

    decay, local = lax.associative_scan(combine, (a, x), reverse=reverse)
    return decay * h[None] + local


def _previous(h, states):
    return jnp.concatenate([h[None], states[:-1]])


def _read(C, h):
    return jnp.sum(spread(C, h.shape[-1]) * h, axis=-2)


def _input(x: _Chunk):
    return (x.delta * x.u)[:, :, None] * spread(x.B, x.u.shape[-1])


def _scan(r: BareOperands, save_states: bool):
    """Run the recurrence; see `recurrence.RecurrenceMaps`."""

    def chunk(h, x):
        states = _linear_scan(_decay(r.A, x), _input(x), h)
        return states[-1], (_read(x.C, states), h if save_states else None)

    last_state, (s, states) = lax.scan(chunk, r.initial_state, _chunks(r))
    # m b n d -> b m n d
    chunk_states = None if states is None else jnp.moveaxis(states, 0, 1)
    return _join(s, r.u.shape[1], 1), last_state, chunk_states


def _tangent(r: BareOperands, t: BareOperands):
    """Run the recurrence and k of its tangents together (formulas: `xla_loop`)."""
    directions = next(x.shape[0] for x in t if x is not None)
    moving = {k: _split(getattr(t, k), 2) for k in ("u", "delta", "B", "C")
              if getattr(t, k) is not None}  # fmt: skip

    def one(h, h_previous, A_bar, x, d_h, d, d_A):
        """Push one direction through a chunk."""
        channels = x.u.shape[-1]
        source = jnp.zeros_like(A_bar)
        if "delta" in d:
            inner = A_bar * h_previous * r.A[None, None]
            inner += x.u[:, :, None] * spread(x.B, channels)
            source += inner * d["delta"][:, :, None]
        if d_A is not None:
            source += A_bar * h_previous * x.delta[:, :, None] * d_A[None, None]
        if "u" in d:
            source += (x.delta * d["u"])[:, :, None] * spread(x.B, channels)
        if "B" in d:
            source += (x.delta * x.u)[:, :, None] * spread(d["B"], channels)
        d_states = _linear_scan(A_bar, source, d_h)
        d_s = _read(x.C, d_states)
        if "C" in d:
            d_s += _read(d["C"], h)
        return d_states[-1], d_s

    def chunk(carry, chunk_inputs):
        h, d_h = carry
        x, d = chunk_inputs
        A_bar = _decay(r.A, x)
        states = _linear_scan(A_bar, _input(x), h)
        over_directions = jax.vmap(
            one, (None, None, None, None, 0, 1, 0 if t.A is not None else None),
            out_axes=(0, 1),
        )  # fmt: skip
        h_previous = _previous(h, states)
        d_h, d_s = over_directions(states, h_previous, A_bar, x, d_h, d, t.A)
        return (states[-1], d_h), (_read(x.C, states), d_s)

    d_h = jnp.zeros((directions, *r.initial_state.shape), r.u.dtype)
    if t.initial_state is not None:
        d_h = t.initial_state
    init = (r.initial_state, d_h)
    (_, d_h), (s, d_s) = lax.scan(chunk, init, (_chunks(r), moving))
    length = r.u.shape[1]
    return _join(s, length, 1), _join(d_s, length, 2), d_h


def _cotangent(r: BareOperands, chunk_states, d_s, d_last_state):
    """Run the reversed recurrence over chunks (formulas: `xla_loop`)."""
    channels, groups = r.u.shape[-1], r.B.shape[-1]

    def one(states, h_previous, A_bar, x, g_next, d_s):
        """Pull one cotangent through a chunk; g_next = A_bar[t+1] g[t+1] at its end."""
        source = d_s[:, :, None] * spread(x.C, channels)
        later = jnp.concatenate([A_bar[1:], jnp.ones_like(A_bar[:1])])
        g = _linear_scan(later, source, g_next, reverse=True)
        w = A_bar * g * h_previous
        B_g = _read(x.B, g)
        g_groups, h_groups = gather_groups(g, groups), gather_groups(states, groups)
        d_B = jnp.einsum("tbngp,tbgp->tbng", g_groups,
                         gather_groups(x.delta * x.u, groups))  # fmt: skip
        d_C = jnp.einsum("tbngp,tbgp->tbng", h_groups, gather_groups(d_s, groups))
        d_delta = jnp.sum(r.A[None, None] * w, axis=2) + x.u * B_g
        d_A = jnp.sum(x.delta[:, :, None] * w, axis=0)
        return A_bar[0] * g[0], d_A, (x.delta * B_g, d_delta, d_B, d_C)

    def chunk(carry, chunk_inputs):
        g, d_A = carry
        x, h, d_s = chunk_inputs
        A_bar = _decay(r.A, x)
        states = _linear_scan(A_bar, _input(x), h)
        over_directions = jax.vmap(
            one, (None, None, None, None, 0, 1), out_axes=(0, 0, 1)
        )
        g, d_A_chunk, parts = over_directions(
            states, _previous(h, states), A_bar, x, g, d_s
        )
        return (g, d_A + d_A_chunk), (_read(x.C, states), parts)

    # of each row: a sum over rows in the loop would be one over devices as well
    d_A = jnp.zeros((d_s.shape[0], *r.initial_state.shape), r.u.dtype)
    over_chunks = (_chunks(r), jnp.moveaxis(chunk_states, 1, 0), _split(d_s, 2))
    (g, d_A), (s, parts) = lax.scan(
        chunk, (d_last_state, d_A), over_chunks, reverse=True
    )
    length = r.u.shape[1]
    d_u, d_delta, d_B, d_C = (_join(x, length, 2) for x in parts)
    d_A = jnp.sum(d_A, axis=1)
    return _join(s, length, 1), BareOperands(d_u, d_delta, d_A, d_B, d_C, g)


xla_chunked = implementation(RecurrenceMaps(_scan, _tangent, _cotangent))
