"""The XLA form for CPUs: one token at a time, the whole step in registers.

XLA:CPU turns each step into a few vectorised loops over (n, d) as long as no
reduction stands in it: sums over n are written out, sums over d are matrix-vector
products with the states as they lie. Nothing of shape (b, l, d, n) exists: the
cotangent recomputes the states of one chunk at a time from the saved states.
"""

from functools import partial

import jax.numpy as jnp
from jax import lax

from jmamba_kernels.selective_scan.contract import CHUNK, num_chunks
from jmamba_kernels.selective_scan.recurrence import (
    BareOperands,
    RecurrenceMaps,
    gather_groups,
    implementation,
    spread,
)


def _as_values(*operands):
    """Return operands that XLA takes for values, whatever they were made of.

    A broadcast constant, such as the cotangent of a sum, is moved into the loop over
    chunks otherwise, and written out again in each: the time is quadratic then.
    """
    return lax.optimization_barrier(operands)


def _at(x, t, axis=1):
    return lax.dynamic_index_in_dim(x, t, axis, keepdims=False)


def _put(x, value, t, axis=1):
    return lax.dynamic_update_index_in_dim(x, value, t, axis)


def _sum_states(terms):
    """Sum over n written out: a reduction would not be fused into the step."""
    return sum(terms[1:], start=terms[0])


def _decay(r: BareOperands, t):
    """Return exp(delta[t] A) keep[t], shape (b, n, d)."""
    A_bar = jnp.exp(_at(r.delta, t)[:, None] * r.A[None])
    if r.keep is None:
        return A_bar
    return jnp.where(_at(r.keep, t)[:, None, None], A_bar, 0)


def _advance(r: BareOperands, h, t):
    """Return h[t] from h[t-1]."""
    input_t = _at(r.delta, t) * _at(r.u, t)
    return _decay(r, t) * h + input_t[:, None] * spread(_at(r.B, t), h.shape[-1])


def _read(C_t, h):
    """Return C[t] . h[t] for states (..., n, d) and C_t (..., n, g)."""
    n, d = h.shape[-2:]
    return _sum_states([h[..., i, :] * spread(C_t[..., i, :], d) for i in range(n)])


def _scan(r: BareOperands, save_states: bool):
    """Run the recurrence; see `recurrence.RecurrenceMaps`."""
    if save_states:
        (r,) = _as_values(r)
    batch, length, _ = r.u.shape
    chunks = num_chunks(length)

    def step(t, carry):
        h, s = carry
        h = _advance(r, h, t)
        return h, _put(s, _read(_at(r.C, t), h), t)

    if not save_states:
        h, s = lax.fori_loop(0, length, step, (r.initial_state, jnp.zeros_like(r.u)))
        return s, h, None

    def chunk(i, carry):
        h, s, states = carry
        states = _put(states, h, i)
        stop = jnp.minimum((i + 1) * CHUNK, length)
        h, s = lax.fori_loop(i * CHUNK, stop, step, (h, s))
        return h, s, states

    states = jnp.zeros((batch, chunks, *r.initial_state.shape[1:]), r.u.dtype)
    init = (r.initial_state, jnp.zeros_like(r.u), states)
    h, s, states = lax.fori_loop(0, chunks, chunk, init)
    return s, h, states


def _tangent(r: BareOperands, t: BareOperands):
    """Run the recurrence and k of its tangents together.

    h'[t] = A_bar[t] h'[t-1] + A_bar[t] (A delta'[t] + delta[t] A') h[t-1]
            + (delta u B)'[t]
    """
    directions = next(x.shape[0] for x in t if x is not None)
    channels = r.u.shape[-1]

    def step(i, carry):
        h, d_h, s, d_s = carry
        A_bar, delta, u = _decay(r, i), _at(r.delta, i), _at(r.u, i)
        B, C = _at(r.B, i), _at(r.C, i)
        carried = A_bar * h
        d_h = A_bar[None] * d_h
        if t.delta is not None:
            d_delta = _at(t.delta, i, 2)
            rate = carried * r.A[None] + u[:, None] * spread(B, channels)
            d_h += rate[None] * d_delta[:, :, None]
        if t.A is not None:
            d_h += (carried * delta[:, None])[None] * t.A[:, None]
        if t.u is not None:
            d_u = delta[None] * _at(t.u, i, 2)
            d_h += d_u[:, :, None] * spread(B, channels)[None]
        if t.B is not None:
            d_h += (delta * u)[None, :, None] * spread(_at(t.B, i, 2), channels)
        h = _advance(r, h, i)
        d_s_i = _read(C[None], d_h)
        if t.C is not None:
            d_s_i += _read(_at(t.C, i, 2), h[None])
        return h, d_h, _put(s, _read(C, h), i), _put(d_s, d_s_i, i, 2)

    d_h = jnp.zeros((directions, *r.initial_state.shape), r.u.dtype)
    if t.initial_state is not None:
        d_h = t.initial_state
    d_s = jnp.zeros((directions, *r.u.shape), r.u.dtype)
    init = (r.initial_state, d_h, jnp.zeros_like(r.u), d_s)
    _, d_h, s, d_s = lax.fori_loop(0, r.u.shape[1], step, init)
    return s, d_s, d_h


def _dot(x, v, contract, batch):
    """Sum x v over channels, the states as the left operand: they stay as they lie.

    `jnp.einsum` may swap the operands, and would then transpose (n, d) in every step.
    """
    return lax.dot_general(x, v, (contract, batch), precision=lax.Precision.HIGHEST)


def _recompute(r: BareOperands, h, start, stop, d_s, s, d_C):
    """Return the states before each token of a chunk, s, and d_C[t] = h[t] d_s[t]."""
    groups = r.B.shape[-1]

    def step(t, carry):
        h, states, s, d_C = carry
        states = _put(states, h, t - start, 0)
        h = _advance(r, h, t)
        h_groups = gather_groups(h, groups)  # b n g p
        d_s_t = gather_groups(_at(d_s, t, 2), groups)  # k b g p
        d_C_t = _dot(h_groups, d_s_t, ((3,), (3,)), ((0, 2), (1, 2)))
        d_C_t = jnp.transpose(d_C_t, (3, 0, 2, 1))  # b g n k -> k b n g
        s = _put(s, _read(_at(r.C, t), h), t)
        return h, states, s, _put(d_C, d_C_t, t, 2)

    size = min(CHUNK, r.u.shape[1])
    states = jnp.zeros((size, *h.shape), h.dtype)
    return lax.fori_loop(start, stop, step, (h, states, s, d_C))[1:]


def _cotangent(r: BareOperands, chunk_states, d_s, d_last_state):
    """Run the reversed recurrence, chunk by chunk, for k cotangents together.

    With g[t] the cotangent of h[t]:

        g[t] = C[t] d_s[t] + A_bar[t+1] g[t+1]
        d_C[t] = h[t] d_s[t]                d_B[t] = g[t] delta[t] u[t]
        d_u[t] = delta[t] B[t] . g[t]       w[t] = A_bar[t] h[t-1] g[t]
        d_delta[t] = A . w[t] + u[t] B[t] . g[t]     d_A = sum_t delta[t] w[t]
    """
    r, chunk_states, d_s, d_last_state = _as_values(r, chunk_states, d_s, d_last_state)
    directions, _, length, channels = d_s.shape
    groups = r.B.shape[-1]

    def step(states, start, stop, i, carry):
        g, d = carry
        t = stop - 1 - i
        delta, u, B = _at(r.delta, t), _at(r.u, t), _at(r.B, t)
        d_s_t = _at(d_s, t, 2)
        g = g + d_s_t[:, :, None] * spread(_at(r.C, t), channels)[None]
        g_groups = gather_groups(g, groups)  # k b n g p
        inputs = gather_groups(delta * u, groups)  # b g p
        d_B = _dot(g_groups, inputs, ((4,), (2,)), ((1, 3), (0, 1)))
        d_B = jnp.transpose(d_B, (2, 0, 3, 1))  # b g k n -> k b n g
        B_g = _read(B[None], g)
        g = _decay(r, t)[None] * g
        w = g * _at(states, t - start, 0)[None]
        d_delta = _sum_states(
            [w[:, :, i] * r.A[None, None, i] for i in range(r.A.shape[0])]
        )
        d = d._replace(
            u=_put(d.u, delta[None] * B_g, t, 2),
            delta=_put(d.delta, d_delta + u[None] * B_g, t, 2),
            A=d.A + w * delta[None, :, None],
            B=_put(d.B, d_B, t, 2),
        )
        return g, d

    def chunk(i, carry):
        g, d, s = carry
        i = chunk_states.shape[1] - 1 - i
        start, stop = i * CHUNK, jnp.minimum((i + 1) * CHUNK, length)
        h = _at(chunk_states, i)
        states, s, d_C = _recompute(r, h, start, stop, d_s, s, d.C)
        g, d = lax.fori_loop(
            0,
            stop - start,
            partial(step, states, start, stop),
            (g, d._replace(C=d_C)),
        )
        return g, d, s

    def zeros(x):
        return jnp.zeros((directions, *x.shape), x.dtype)

    h0 = r.initial_state
    d = BareOperands(
        zeros(r.u), zeros(r.u), zeros(h0), zeros(r.B), zeros(r.C), zeros(h0)
    )
    init = (d_last_state, d, jnp.zeros_like(r.u))
    g, d, s = lax.fori_loop(0, chunk_states.shape[1], chunk, init)
    return s, d._replace(A=jnp.sum(d.A, axis=1), initial_state=g)


xla_loop = implementation(RecurrenceMaps(_scan, _tangent, _cotangent))
