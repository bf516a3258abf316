"""The bodies of the Triton kernels: one program's walk through its segment.

    h[t] = exp(delta[t] A) keep[t] h[t-1] + delta[t] B[t] u[t]
    y[t] = (C[t] . h[t] + D u[t]) silu(z[t])

Refs are those of `Operands`, split as `pallas_triton.split` does; `place` says what a
program is compiled for (`triton_program.here`).

References:
  Gu & Dao, "Mamba", arXiv 2312.00752, section 3.2, algorithm 2.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from jmamba_kernels.contract import CHUNK
from jmamba_kernels.gpu_elementwise import LOG2_E, sigmoid, silu, silu_and_slope
from jmamba_kernels.triton_program import (
    Program,
    Step,
    advance,
    decay,
    exp2,
    here,
    keep_steps,
    keep_until,
    multiply_add,
    over_states,
    read_channels,
    read_gate,
    read_states,
    read_token,
    read_value,
    step_size,
    sum_channels,
    sum_states,
    widen,
    write_gate,
    write_states,
    write_token,
)

LN_2 = 1 / LOG2_E

# The scan -----------------------------------------------------------------------------


def scan_kernel(x, starts_ref, y_ref, ends_ref, *saved, **place):
    """Run the recurrence over a segment from its true start."""
    at = here(**place)
    A, D = read_states(x.A, at), read_channels(x.D, at)

    def read(i):
        return [read_token(x, at, i * at.k.tokens + j) for j in range(at.k.tokens)]

    def run_tokens(i, carry):
        h, tokens = carry
        t0 = i * at.k.tokens

        @pl.when(t0 % CHUNK == 0)
        def _():
            for chunk_states_ref in saved:
                write_states(chunk_states_ref, at, h, at.row, t0 // CHUNK)

        following = read(i + 1)  # on their way while these tokens are computed
        y = []
        for j, token in enumerate(tokens):
            h, _ = advance(x, at, A, h, token, t0 + j)
            s = sum_states(h * read_gate(x.C, at, t0 + j))
            if D is not None:
                s += D * widen(token.u)
            y.append(s if token.z is None else s * silu(widen(token.z)))
        for j in range(at.k.tokens):  # a store holds back the reads behind it
            write_token(y_ref, at, t0 + j, y[j])
        return h, following

    first, behind = (t // at.k.tokens for t in at.tokens)
    h = read_states(starts_ref, at, at.row, at.segment)
    h, _ = lax.fori_loop(first, behind, run_tokens, (h, read(first)))
    write_states(ends_ref, at, h, at.row, at.segment)


def segment_ends_kernel(x, ends_ref, decay_ref, **place):
    """Find the end of a segment that starts from zero, and what it does to a state."""
    at = here(**place)
    A = read_states(x.A, at)

    def run_token(t, carry):
        h, total, kept = carry
        h, delta = advance(x, at, A, h, read_token(x, at, t), t)
        return h, total + delta, keep_until(x, at, kept, t)

    total = jnp.zeros(at.tile[1::2], jnp.float32)
    carry = (jnp.zeros_like(A), total, jnp.ones_like(total))
    h, total, kept = lax.fori_loop(*at.tokens, run_token, carry)
    write_states(ends_ref, at, h, at.row, at.segment)
    A_bar = exp2(at, A * over_states(total)) * over_states(kept)
    write_states(decay_ref, at, A_bar, at.row, at.segment)


# The cotangent ------------------------------------------------------------------------


class Sums(NamedTuple):
    """What one direction carries backwards: g[t] before the token, and sums over t."""

    g: jax.Array
    A: jax.Array | None
    D: jax.Array | None
    delta_bias: jax.Array | None


def cotangent_kernel(
    x, chunk_states_ref, d_y_ref, g_ends_ref, out, *, together, **place
):
    """Run the reversed recurrence over a segment, from the g behind its end.

    Each chunk is run forward first, from its saved state, to find the states where
    its blocks of tokens start; then each block, from the last, again forward with all
    its states kept, and backward.
    """
    at = here(together=together, **place)
    A, D = read_states(x.A, at), read_channels(x.D, at)
    tokens = at.k.tokens

    def run_token(t, h):
        return advance(x, at, A, h, read_token(x, at, t), t)[0]

    def run_chunk(i, sums):
        t0 = behind - (i + 1) * CHUNK

        def find_start(j, carry):
            h, starts = carry
            starts = [jnp.where(j == i, h, start) for i, start in enumerate(starts)]
            block = t0 + j * tokens
            return lax.fori_loop(block, block + tokens, run_token, h), starts

        def run_block(j, sums):
            j = len(starts) - j
            h = last
            for i, start in enumerate(starts):
                h = jnp.where(j == i, start, h)
            steps = keep_steps(x, at, A, h, t0 + j * tokens, tokens)
            for step in reversed(steps):
                sums = pull(x, at, A, D, step, d_y_ref, sums, out)
            return sums

        h = read_states(chunk_states_ref, at, at.row, t0 // CHUNK)
        starts = [h] * (CHUNK // tokens - 1)
        last, starts = lax.fori_loop(0, len(starts), find_start, (h, starts))
        return lax.fori_loop(0, len(starts) + 1, run_block, sums)

    def nothing(name, like):
        return jnp.zeros_like(like) if name in out else None

    by_channel = jnp.zeros(at.tile[1::2], jnp.float32)
    sums = [
        Sums(
            read_states(g_ends_ref, at, at.direction + j, at.row, at.segment),
            nothing("A", A),
            nothing("D", by_channel),
            nothing("delta_bias", by_channel),
        )
        for j in range(together)
    ]
    first, behind = at.tokens
    sums = lax.fori_loop(0, (behind - first) // CHUNK, run_chunk, sums)
    for j, of in enumerate(sums):
        lead = (at.direction + j, at.row, at.segment)
        for name in {"g", "A"} & set(out):
            write_states(out[name], at, getattr(of, name), *lead)
        for name in {"D", "delta_bias"} & set(out):
            out[name][(*lead, at.x)] = getattr(of, name)


def pull(x, at: Program, A, D, step: Step, d_y_ref, sums: list[Sums], out):
    """Pull every direction through one token, and write what belongs to the token.

    g[t] = A_bar[t+1] g[t+1] + C[t] d_s[t],     w[t] = A_bar[t] g[t] h[t-1]
    d_u = delta B.g + D d_s,   d_delta = A.w + u B.g,   d_A = sum_t delta w
    d_B = sum_d delta u g,     d_C = sum_d h d_s,       d_z = d_y (s + D u) silu'
    """
    t, token, delta = step.t, step.token, step.delta
    B, C = read_gate(x.B, at, t), read_gate(x.C, at, t)
    u = widen(token.u)
    if token.z is not None:
        gate, slope = silu_and_slope(widen(token.z))
        if "z" in out:
            s = sum_states(C * step.h)
            slope *= s if D is None else s + D * u
    after = []
    for j, of in enumerate(sums):
        which = at.direction + j
        d_s = d_y = widen(read_value(d_y_ref, at, t, which))
        if token.z is not None:
            d_s = d_y * gate
        if at.k.ragged:
            d_s = jnp.where(at.holds(t), d_s, 0.0)
        g = multiply_add(at, C, over_states(d_s), of.g)
        pulled = step.A_bar * g
        w = pulled * step.h_before
        B_g = sum_states(B * g)
        d_delta = LN_2 * sum_states(A * w) + u * B_g
        if at.delta_softplus:
            d_delta *= sigmoid(step.raw)
        if "u" in out:
            d_u = delta * B_g if D is None else delta * B_g + D * d_s
            write_token(out["u"], at, t, d_u, which)
        if "delta" in out:
            write_token(out["delta"], at, t, d_delta, which)
        if "z" in out:
            write_token(out["z"], at, t, d_y * slope, which)
        if "B" in out:
            d_B = sum_channels(over_states(delta * u) * g)
            write_gate(out["B"], at, t, d_B, which)
        if "C" in out:
            d_C = sum_channels(over_states(d_s) * step.h)
            write_gate(out["C"], at, t, d_C, which)
        after.append(add_up(at, of, pulled, w, delta, d_s * u, d_delta, t))
    return after


def add_up(at: Program, of: Sums, pulled, w, delta, d_D, d_delta, t) -> Sums:
    """Return g for the token before, and the sums of the parameters' cotangents."""
    d_A = None if of.A is None else multiply_add(at, over_states(delta), w, of.A)
    d_D = None if of.D is None else of.D + d_D
    bias = of.delta_bias
    if bias is not None:
        bias += jnp.where(at.holds(t), d_delta, 0.0) if at.k.ragged else d_delta
    return Sums(pulled, d_A, d_D, bias)


def segment_starts_kernel(x, d_y_ref, starts_ref, decay_ref, *, together, **place):
    """Find A_bar g at a segment's start if it is zero behind its end, and the decay."""
    at = here(together=together, **place)
    A = read_states(x.A, at)
    first, behind = at.tokens

    def run_token(i, carry):
        directions, total, kept = carry
        t = behind - 1 - i
        token = read_token(x, at, t)
        _, delta = step_size(x, at, token, t)
        A_bar = decay(x, at, A, delta, t)
        C = read_gate(x.C, at, t)
        after = []
        for j, g in enumerate(directions):
            d_s = widen(read_value(d_y_ref, at, t, at.direction + j))
            if token.z is not None:
                d_s *= silu(widen(token.z))
            if at.k.ragged:
                d_s = jnp.where(at.holds(t), d_s, 0.0)
            after.append(A_bar * multiply_add(at, C, over_states(d_s), g))
        return after, total + delta, keep_until(x, at, kept, t)

    total = jnp.zeros(at.tile[1::2], jnp.float32)
    carry = ([jnp.zeros_like(A)] * together, total, jnp.ones_like(total))
    directions, total, kept = lax.fori_loop(0, behind - first, run_token, carry)
    for j, g in enumerate(directions):
        write_states(starts_ref, at, g, at.direction + j, at.row, at.segment)
    A_bar = exp2(at, A * over_states(total)) * over_states(kept)
    write_states(decay_ref, at, A_bar, at.row, at.segment)


# The tangent --------------------------------------------------------------------------


class Directions(NamedTuple):
    """One direction's tangents of the parameters; absent ones are None."""

    A: jax.Array | None
    D: jax.Array | None
    delta_bias: jax.Array | None


def tangent_kernel(
    x, tangents, starts_ref, d_starts_ref, d_y_ref, d_ends_ref, *, together, **place
):
    """Run the recurrence and its tangents over a segment."""
    at = here(together=together, **place)
    A, D = read_states(x.A, at), read_channels(x.D, at)
    directions = [
        Directions(
            None if tangents.A is None else read_states(tangents.A, at, which),
            read_channels(tangents.D, at, which),
            read_channels(tangents.delta_bias, at, which),
        )
        for which in (at.direction + j for j in range(together))
    ]

    def run_token(t, carry):
        h, d_h = carry
        step = keep_steps(x, at, A, h, t, 1)[0]
        after = []
        for j, of in enumerate(directions):
            which = at.direction + j
            d_h_j, d_y = push(x, tangents, at, A, D, step, which, of, d_h[j])
            after.append(d_h_j)
            write_token(d_y_ref, at, t, d_y, which)
        return step.h, after

    h = read_states(starts_ref, at, at.row, at.segment)
    d_h = [
        read_states(d_starts_ref, at, at.direction + j, at.row, at.segment)
        for j in range(together)
    ]
    _, d_h = lax.fori_loop(*at.tokens, run_token, (h, d_h))
    for j in range(together):
        write_states(d_ends_ref, at, d_h[j], at.direction + j, at.row, at.segment)


def push(x, tangents, at: Program, A, D, step: Step, which, of: Directions, d_h):
    """Push one direction through a token; return its d_h and d_y.

    d_h[t] = A_bar d_h[t-1] + A_bar h[t-1] (A d_delta + delta d_A)
             + (d_delta u + delta d_u) B + delta u d_B
    d_y = (C.d_h + d_C.h + D d_u + d_D u) silu(z) + (C.h + D u) silu'(z) d_z
    """
    t, token, delta = step.t, step.token, step.delta
    B, C, u = read_gate(x.B, at, t), read_gate(x.C, at, t), widen(token.u)
    moved = {
        f: widen(read_value(getattr(tangents, f), at, t, which))
        for f in ("u", "delta", "z")
        if getattr(tangents, f) is not None
    }
    d_delta = push_step_size(at, step, moved.get("delta"), of.delta_bias)
    d_h = step.A_bar * d_h
    rate = None if d_delta is None else A * over_states(LN_2 * d_delta)
    if of.A is not None:
        d_rate = over_states(delta) * of.A
        rate = d_rate if rate is None else rate + d_rate
    if rate is not None:
        d_h = multiply_add(at, step.A_bar * step.h_before, rate, d_h)
    d_source = None if d_delta is None else d_delta * u
    if "u" in moved:
        d_source = delta * moved["u"] + (0.0 if d_source is None else d_source)
    if d_source is not None:
        d_h = multiply_add(at, over_states(d_source), B, d_h)
    if tangents.B is not None:
        d_B = read_gate(tangents.B, at, t, which)
        d_h = multiply_add(at, over_states(delta * u), d_B, d_h)
    d_s = sum_states(C * d_h)
    if tangents.C is not None:
        d_s += sum_states(read_gate(tangents.C, at, t, which) * step.h)
    if D is not None and "u" in moved:
        d_s += D * moved["u"]
    if of.D is not None:
        d_s += of.D * u
    if token.z is None:
        return d_h, d_s
    gate, slope = silu_and_slope(widen(token.z))
    d_y = d_s * gate
    if "z" in moved:
        s = sum_states(C * step.h)
        d_y += (s if D is None else s + D * u) * slope * moved["z"]
    return d_h, d_y


def push_step_size(at: Program, step: Step, d_delta, d_bias):
    """Return the tangent of the step size; zero past the end, None where it rests."""
    if d_delta is None and d_bias is None:
        return None
    d_raw = d_bias if d_delta is None else d_delta
    if d_delta is not None and d_bias is not None:
        d_raw += d_bias
    if at.delta_softplus:
        d_raw *= sigmoid(step.raw)
    return jnp.where(at.holds(step.t), d_raw, 0.0) if at.k.ragged else d_raw
