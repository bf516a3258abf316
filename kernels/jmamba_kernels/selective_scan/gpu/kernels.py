"""The bodies of the GPU kernels: one program's walk through its segment.

    h[t] = exp(delta[t] A) keep[t] h[t-1] + delta[t] B[t] u[t]
    y[t] = (C[t] . h[t] + D u[t]) silu(z[t])

Each is written once, for every backend: `at` is the program, in the backend's class.

References:
  Gu & Dao, "Mamba", arXiv 2312.00752, section 3.2, algorithm 2.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from jmamba_kernels.selective_scan.contract import CHUNK
from jmamba_kernels.selective_scan.gpu.elementwise import (
    sigmoid,
    silu_and_slope,
    silu_by_exponential,
)
from jmamba_kernels.selective_scan.gpu.program import (
    Program,
    Step,
    advance,
    decay_tile,
    keep_steps,
    keep_until,
    read_token,
    step_sizes,
    widen,
)
from jmamba_kernels.selective_scan.powers import LN_2

# The scan -----------------------------------------------------------------------------


def scan_body(at: Program, x, starts_ref, y_ref, ends_ref, *saved):
    """Run the recurrence over a segment from its true start."""
    A = at.read_states(x.A)
    D = None if x.D is None else at.read_channels(x.D)

    def read(i):
        return [read_token(x, at, i * at.k.tokens + j) for j in range(at.k.tokens)]

    def run_tokens(i, carry):
        h, tokens = carry
        t0 = i * at.k.tokens

        @pl.when(lax.rem(t0, CHUNK) == 0)
        def _():
            for chunk_states_ref in saved:
                at.write_states(chunk_states_ref, h, at.row, lax.div(t0, CHUNK))

        # on their way while these tokens are computed
        following = read(jnp.minimum(i + 1, behind - 1))
        y = []
        for j, token in enumerate(tokens):
            h = advance(x, at, A, h, token, t0 + j)[0]
            s = at.sum_states(h * at.read_gate(x.C, t0 + j))
            if D is not None:
                s += D * widen(token.u)
            y.append(s if token.z is None else s * silu_by_exponential(widen(token.z)))
        for j in range(at.k.tokens):  # a store holds back the reads behind it
            at.write_token(y_ref, t0 + j, y[j])
        return h, following

    first, behind = (lax.div(t, at.k.tokens) for t in at.tokens)
    h = at.read_states(starts_ref, at.row, at.segment)
    h, _ = lax.fori_loop(first, behind, run_tokens, (h, read(first)))
    at.write_states(ends_ref, h, at.row, at.segment)


def segment_ends_body(at: Program, x, ends_ref, decay_ref):
    """Find the end of a segment that starts from zero, and what it does to a state."""
    A = at.read_states(x.A)

    def run_token(t, carry):
        h, total, kept = carry
        h, delta = advance(x, at, A, h, read_token(x, at, t), t)
        return h, total + delta, keep_until(x, at, kept, t)

    total, h = at.zeros()
    carry = (h, total, jnp.float32(1.0))
    h, total, kept = lax.fori_loop(*at.tokens, run_token, carry)
    at.write_states(ends_ref, h, at.row, at.segment)
    A_bar = at.exp2(A * at.over_states(total)) * kept
    at.write_states(decay_ref, A_bar, at.row, at.segment)


# The cotangent ------------------------------------------------------------------------


class Sums(NamedTuple):
    """What one direction carries backwards: g[t] before the token, and sums over t."""

    g: jax.Array
    A: jax.Array | None
    D: jax.Array | None
    delta_bias: jax.Array | None


def cotangent_body(
    at: Program, x, chunk_states_ref, d_y_ref, g_ends_ref, out, *, together
):
    """Run the reversed recurrence over a segment, from the g behind its end.

    Each chunk is run forward first, from its saved state, to find the states where
    its blocks of tokens start; then each block, from the last, again forward with all
    its states kept, and backward.
    """
    A = at.read_states(x.A)
    D = None if x.D is None else at.read_channels(x.D)
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

        h = at.read_states(chunk_states_ref, at.row, lax.div(t0, CHUNK))
        starts = [h] * (CHUNK // tokens - 1)
        last, starts = lax.fori_loop(0, len(starts), find_start, (h, starts))
        return lax.fori_loop(0, len(starts) + 1, run_block, sums)

    by_channel, by_state = at.zeros()
    sums = [
        Sums(
            at.read_states(g_ends_ref, at.direction + j, at.row, at.segment),
            by_state if "A" in out else None,
            by_channel if "D" in out else None,
            by_channel if "delta_bias" in out else None,
        )
        for j in range(together)
    ]
    first, behind = at.tokens
    sums = lax.fori_loop(0, lax.div(behind - first, CHUNK), run_chunk, sums)
    for j, of in enumerate(sums):
        lead = (at.direction + j, at.row, at.segment)
        # in this order: a set's differs from process to process
        for name in filter(out.__contains__, ("g", "A")):
            at.write_states(out[name], getattr(of, name), *lead)
        for name in filter(out.__contains__, ("D", "delta_bias")):
            at.write_channels(out[name], getattr(of, name), *lead)


def pull(x, at: Program, A, D, step: Step, d_y_ref, sums: list[Sums], out):
    """Pull every direction through one token, and write what belongs to the token.

    g[t] = A_bar[t+1] g[t+1] + C[t] d_s[t],     w[t] = A_bar[t] g[t] h[t-1]
    d_u = delta B.g + D d_s,   d_delta = A.w + u B.g,   d_A = sum_t delta w
    d_B = sum_d delta u g,     d_C = sum_d h d_s,       d_z = d_y (s + D u) silu'
    """
    t, token, delta = step.t, step.token, step.delta
    B, C = at.read_gate(x.B, t), at.read_gate(x.C, t)
    u = widen(token.u)
    gate = slope = None
    if token.z is not None:
        gate, slope = silu_and_slope(widen(token.z))
        if "z" in out:
            s = at.sum_states(C * step.h)
            slope *= s if D is None else s + D * u
    after = []
    for j, of in enumerate(sums):
        which = at.direction + j
        d_s = d_y = widen(at.read_token(d_y_ref, t, which))
        if gate is not None:
            d_s = d_y * gate
        d_s = at.only_inside(d_s, t)
        g = at.multiply_add(C, at.over_states(d_s), of.g)
        pulled = step.A_bar * g
        w = pulled * step.h_before
        B_g = at.sum_states(B * g)
        d_delta = LN_2 * at.sum_states(A * w) + u * B_g
        if at.delta_softplus:
            d_delta *= sigmoid(step.raw)
        if "u" in out:
            d_u = delta * B_g if D is None else delta * B_g + D * d_s
            at.write_token(out["u"], t, d_u, which)
        if "delta" in out:
            at.write_token(out["delta"], t, d_delta, which)
        if "z" in out and slope is not None:
            at.write_token(out["z"], t, d_y * slope, which)
        if "B" in out:
            d_B = at.sum_channels(at.over_states(delta * u) * g)
            at.write_gate(out["B"], t, d_B, which)
        if "C" in out:
            d_C = at.sum_channels(at.over_states(d_s) * step.h)
            at.write_gate(out["C"], t, d_C, which)
        after.append(add_to_sums(at, of, pulled, w, delta, d_s * u, d_delta, t))
    return after


def add_to_sums(at: Program, of: Sums, pulled, w, delta, d_D, d_delta, t) -> Sums:
    """Return g for the token before, and the sums of the parameters' cotangents."""
    d_A = None if of.A is None else at.multiply_add(at.over_states(delta), w, of.A)
    d_D = None if of.D is None else of.D + d_D
    bias = of.delta_bias
    if bias is not None:
        bias += at.only_inside(d_delta, t)
    return Sums(pulled, d_A, d_D, bias)


def segment_starts_body(at: Program, x, d_y_ref, starts_ref, decay_ref, *, together):
    """Find A_bar g at a segment's start if it is zero behind its end, and the decay."""
    A = at.read_states(x.A)
    first, behind = at.tokens

    def run_token(i, carry):
        directions, total, kept = carry
        t = behind - 1 - i
        token = read_token(x, at, t)
        _, delta = step_sizes(x, at, token, t)
        A_bar = decay_tile(x, at, A, delta, t)
        C = at.read_gate(x.C, t)
        after = []
        for j, g in enumerate(directions):
            d_s = widen(at.read_token(d_y_ref, t, at.direction + j))
            if token.z is not None:
                d_s *= silu_by_exponential(widen(token.z))
            d_s = at.only_inside(d_s, t)
            after.append(A_bar * at.multiply_add(C, at.over_states(d_s), g))
        return after, total + delta, keep_until(x, at, kept, t)

    total, g = at.zeros()
    carry = ([g] * together, total, jnp.float32(1.0))
    directions, total, kept = lax.fori_loop(0, behind - first, run_token, carry)
    for j, g in enumerate(directions):
        at.write_states(starts_ref, g, at.direction + j, at.row, at.segment)
    A_bar = at.exp2(A * at.over_states(total)) * kept
    at.write_states(decay_ref, A_bar, at.row, at.segment)


# The tangent --------------------------------------------------------------------------


class Directions(NamedTuple):
    """One direction's tangents of the parameters; absent ones are None."""

    A: jax.Array | None
    D: jax.Array | None
    delta_bias: jax.Array | None


def tangent_body(
    at: Program,
    x,
    tangents,
    starts_ref,
    d_starts_ref,
    d_y_ref,
    d_ends_ref,
    *,
    together,
):
    """Run the recurrence and its tangents over a segment."""
    A = at.read_states(x.A)
    D = None if x.D is None else at.read_channels(x.D)
    directions = [
        Directions(
            None if tangents.A is None else at.read_states(tangents.A, which),
            None if tangents.D is None else at.read_channels(tangents.D, which),
            None
            if tangents.delta_bias is None
            else at.read_channels(tangents.delta_bias, which),
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
            at.write_token(d_y_ref, t, d_y, which)
        return step.h, after

    h = at.read_states(starts_ref, at.row, at.segment)
    d_h = [
        at.read_states(d_starts_ref, at.direction + j, at.row, at.segment)
        for j in range(together)
    ]
    _, d_h = lax.fori_loop(*at.tokens, run_token, (h, d_h))
    for j in range(together):
        at.write_states(d_ends_ref, d_h[j], at.direction + j, at.row, at.segment)


def push(x, tangents, at: Program, A, D, step: Step, which, of: Directions, d_h):
    """Push one direction through a token; return its d_h and d_y.

    d_h[t] = A_bar d_h[t-1] + A_bar h[t-1] (A d_delta + delta d_A)
             + (d_delta u + delta d_u) B + delta u d_B
    d_y = (C.d_h + d_C.h + D d_u + d_D u) silu(z) + (C.h + D u) silu'(z) d_z
    """
    t, token, delta = step.t, step.token, step.delta
    B, C, u = at.read_gate(x.B, t), at.read_gate(x.C, t), widen(token.u)
    moved = {
        f: widen(at.read_token(getattr(tangents, f), t, which))
        for f in ("u", "delta", "z")
        if getattr(tangents, f) is not None
    }
    d_delta = push_step_size(at, step, moved.get("delta"), of.delta_bias)
    d_h = step.A_bar * d_h
    rate = None if d_delta is None else A * at.over_states(LN_2 * d_delta)
    if of.A is not None:
        d_rate = at.over_states(delta) * of.A
        rate = d_rate if rate is None else rate + d_rate
    if rate is not None:
        d_h = at.multiply_add(step.A_bar * step.h_before, rate, d_h)
    d_source = None if d_delta is None else d_delta * u
    if "u" in moved:
        d_source = delta * moved["u"] + (0.0 if d_source is None else d_source)
    if d_source is not None:
        d_h = at.multiply_add(at.over_states(d_source), B, d_h)
    if tangents.B is not None:
        d_B = at.read_gate(tangents.B, t, which)
        d_h = at.multiply_add(at.over_states(delta * u), d_B, d_h)
    d_s = at.sum_states(C * d_h)
    if tangents.C is not None:
        d_s += at.sum_states(at.read_gate(tangents.C, t, which) * step.h)
    if D is not None and "u" in moved:
        d_s += D * moved["u"]
    if of.D is not None:
        d_s += of.D * u
    if token.z is None:
        return d_h, d_s
    gate, slope = silu_and_slope(widen(token.z))
    d_y = d_s * gate
    if "z" in moved:
        s = at.sum_states(C * step.h)
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
    return at.only_inside(d_raw, step.t)
