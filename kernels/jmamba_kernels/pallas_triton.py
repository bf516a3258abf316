"""Pallas Triton kernels of the selective scan, for Ampere and Ada.

    h[t] = exp(delta[t] A) keep[t] h[t-1] + delta[t] B[t] u[t]
    y[t] = (C[t] . h[t] + D u[t]) silu(z[t])

States are tiles with the axes (p, w, q, c): p states in a lane and q lanes over them,
c channels by w warps. Triton deals lanes out from the last axis on, then warps, so
a warp is q x c and every operand of a token is read where it is used: nothing goes
through shared memory but the sums over channels that cross warps.

References:
  Gu & Dao, "Mamba", arXiv 2312.00752, section 3.2, algorithm 2.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jmamba_kernels.contract import CHUNK
from jmamba_kernels.elementwise import LOG2_E, sigmoid, silu, silu_and_slope, softplus
from jmamba_kernels.gpu_blocks import LANES, Blocks, Operands, Shape
from jmamba_kernels.gpu_maps import (
    Kernels,
    Pulled,
    gpu_implementation,
    run_over_directions,
    struct,
)
from jmamba_kernels.interpretation import pallas_call_anywhere

LN_2 = 1 / LOG2_E

MOST_DIRECTIONS = 4
"""Directions that one program takes, sharing the decays and the states."""


# Arithmetic ---------------------------------------------------------------------------
# Triton compiles a b + c to two instructions, and exp2 to four that keep denormals.


def multiply_add(at: "Program", a, b, c):
    """Return a b + c in one instruction and one rounding."""
    shape = jnp.broadcast_shapes(a.shape, b.shape, c.shape)
    if not at.native:
        return a * b + c
    (out,) = plgpu.elementwise_inline_asm(
        "fma.rn.f32 $0, $1, $2, $3;",
        args=[jnp.broadcast_to(v, shape) for v in (a, b, c)],
        constraints="=f,f,f,f",
        pack=1,
        result_shape_dtypes=[struct(shape)],
    )
    return out


def exp2(at: "Program", x):
    """Return 2^x in one instruction; results below 2^-126 become zero."""
    if not at.native:
        return jnp.exp2(x)
    (out,) = plgpu.elementwise_inline_asm(
        "ex2.approx.ftz.f32 $0, $1;",
        args=[x],
        constraints="=f,f",
        pack=1,
        result_shape_dtypes=[struct(x.shape)],
    )
    return out


# Where a program is, and what it reads ------------------------------------------------


class Program(NamedTuple):
    """A program's place, and what it is compiled for.

    `native` says whether it runs on a chip, where `interpret` has no instructions.
    """

    block: jax.Array
    row: jax.Array
    segment: jax.Array
    direction: jax.Array
    k: Blocks
    delta_softplus: bool
    native: bool

    @property
    def tile(self) -> tuple[int, int, int, int]:
        """Sizes of (p, w, q, c)."""
        return tile(self.k)

    @property
    def x(self):
        """The program's part of the axis x, of which it owns w."""
        return pl.ds(self.block * self.k.num_warps, self.k.num_warps)

    @property
    def tokens(self):
        """The program's first token and the one behind its last, of whole chunks."""
        first = self.segment * self.k.chunks_per_segment
        behind = jnp.minimum(first + self.k.chunks_per_segment, self.k.chunks)
        return first * CHUNK, behind * CHUNK

    def holds(self, t):
        """Return whether token t exists."""
        return t < self.k.length

    def clip(self, t):
        """Return t, or the last token instead of one past the end."""
        return jnp.minimum(t, self.k.length - 1) if self.k.ragged else t


def tile(k: Blocks) -> tuple[int, int, int, int]:
    """Return the sizes of (p, w, q, c)."""
    lanes = k.n // k.states_per_lane
    return k.states_per_lane, k.num_warps, lanes, LANES // lanes


def here(k: Blocks, delta_softplus: bool, native: bool, together: int = 1) -> Program:
    """Return where the running program is; the grid is that of `launch`."""
    block, second, segment = (pl.program_id(axis) for axis in range(3))
    row, which = second % k.batch, second // k.batch
    return Program(
        block, row, segment, which * together, k, delta_softplus, native
    )  # fmt: skip


class Token(NamedTuple):
    """A token's operands of the program's channels, (w, c) each, as they lie."""

    u: jax.Array
    delta: jax.Array
    z: jax.Array | None


def read_value(ref, at: Program, t, *lead):
    """Read (w, c) values of a token; past the end, of the last one; None if absent."""
    return None if ref is None else ref[(*lead, at.row, at.clip(t), at.x)]


def read_token(x: Operands, at: Program, t) -> Token:
    """Read u, delta and z of a token."""
    return Token(*(read_value(ref, at, t) for ref in (x.u, x.delta, x.z)))


def widen(v):
    """Return a value in float32."""
    return v.astype(jnp.float32)


def read_channels(ref, at: Program, *lead):
    """Read (w, c) values that all tokens share, in float32; None where absent."""
    return None if ref is None else ref[(*lead, at.x)].astype(jnp.float32)


def read_gate(ref, at: Program, t, *lead):
    """Read B[t] or C[t] as (p, 1, q, 1)."""
    group = at.block // at.k.blocks_per_group
    gate = ref[(*lead, at.row, at.clip(t), group)]
    return gate.astype(jnp.float32)[:, None, :, None]


def state_index(at: Program) -> tuple[jax.Array, ...]:
    """Return the indices of a tile of states into (p, q, x, c).

    Triton would give a thread four neighbouring channels to load at once, and then
    keep the states in that layout; the hint that nothing is contiguous leaves them
    one channel a thread.
    """
    p, w, q, c = (plgpu.max_contiguous(jnp.arange(size), [1]) for size in at.tile)
    w += at.block * at.k.num_warps
    return (
        p[:, None, None, None],
        q[None, None, :, None],
        w[None, :, None, None],
        c[None, None, None, :],
    )


def read_states(ref, at: Program, *lead):
    """Read a tile of states."""
    return ref[(*lead, *state_index(at))]


def write_states(ref, at: Program, value, *lead):
    """Write a tile of states."""
    ref[(*lead, *state_index(at))] = value


def write_token(ref, at: Program, t, value, *lead):
    """Write a token's (w, c) value unless the token is past the end."""
    write_at(ref.at[(*lead, at.row, at.clip(t), at.x)], at, t, value)


def write_gate(ref, at: Program, t, value, *lead):
    """Write the program's part of a (p, q) sum unless the token is past the end."""
    write_at(ref.at[(at.block, *lead, at.row, at.clip(t))], at, t, value)


def write_at(view, at: Program, t, value):
    """Write what belongs to a token."""
    mask = jnp.full(value.shape, at.holds(t)) if at.k.ragged else None
    plgpu.store(view, value.astype(view.dtype), mask=mask)


def over_states(v):
    """Spread a (w, c) value over the states."""
    return v[None, :, None, :]


def sum_states(v):
    """Sum a tile over its states: first in a lane, then across lanes."""
    return jnp.sum(jnp.sum(v, axis=0), axis=1)


def sum_channels(v):
    """Sum a tile over its channels: (p, q)."""
    return jnp.sum(jnp.sum(v, axis=3), axis=1)


def step_size(x: Operands, at: Program, token: Token, t):
    """Return delta[t] + delta_bias, and delta[t] as the recurrence takes it.

    The latter is zero past the end: the identity.
    """
    raw = widen(token.delta)
    if x.delta_bias is not None:
        raw += read_channels(x.delta_bias, at)
    delta = softplus(raw) if at.delta_softplus else raw
    return raw, jnp.where(at.holds(t), delta, 0.0) if at.k.ragged else delta


def decay(x: Operands, at: Program, A, delta, t):
    """Return exp(delta[t] A) keep[t]."""
    A_bar = exp2(at, A * over_states(delta))
    if x.keep is None:
        return A_bar
    return A_bar * jnp.where(at.holds(t), x.keep[at.row, at.clip(t)], 1.0)


def advance(x: Operands, at: Program, A, h, token: Token, t):
    """Return h[t] from h[t-1], and the step size."""
    _, delta = step_size(x, at, token, t)
    A_bar = decay(x, at, A, delta, t)
    source = over_states(delta * widen(token.u)) * read_gate(x.B, at, t)
    return multiply_add(at, A_bar, h, source), delta


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
        for chunk_states_ref in saved:

            @pl.when(t0 % CHUNK == 0)
            def _():
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


def keep_until(x: Operands, at: Program, kept, t):
    """Return zero once a reset was met."""
    if x.keep is None:
        return kept
    return kept * jnp.where(at.holds(t), x.keep[at.row, at.clip(t)], 1.0)


# The cotangent ------------------------------------------------------------------------


class Step(NamedTuple):
    """What the reversed pass needs of a token."""

    t: jax.Array
    token: Token
    raw: jax.Array
    delta: jax.Array
    A_bar: jax.Array
    h_before: jax.Array
    h: jax.Array


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
        starts = [read_states(chunk_states_ref, at, at.row, t0 // CHUNK)]
        for t in range(0, CHUNK - tokens, tokens):
            h = lax.fori_loop(t0 + t, t0 + t + tokens, run_token, starts[-1])
            starts.append(h)

        def run_block(j, sums):
            j = len(starts) - 1 - j
            h = starts[0]
            for which, start in enumerate(starts[1:], 1):
                h = jnp.where(j == which, start, h)
            steps = keep_steps(x, at, A, h, t0 + j * tokens, tokens)
            for step in reversed(steps):
                sums = pull(x, at, A, D, step, d_y_ref, sums, out)
            return sums

        return lax.fori_loop(0, len(starts), run_block, sums)

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


def keep_steps(x: Operands, at: Program, A, h, t0, count: int) -> list[Step]:
    """Run a block of tokens forward and keep everything."""
    steps = []
    for t in [t0 + j for j in range(count)]:
        token = read_token(x, at, t)
        raw, delta = step_size(x, at, token, t)
        A_bar = decay(x, at, A, delta, t)
        source = over_states(delta * widen(token.u)) * read_gate(x.B, at, t)
        h_before, h = h, multiply_add(at, A_bar, h, source)
        steps.append(Step(t, token, raw, delta, A_bar, h_before, h))
    return steps


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


def segment_starts_kernel(
    x, d_y_ref, starts_ref, decay_ref, *, together, **place
):
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


# Launches -----------------------------------------------------------------------------


def launch(kernel, name, k: Blocks, out_shape, *, rows=1, **static):
    """Return a kernel as a function of its operands; `rows` programs a batch row."""
    return pallas_call_anywhere(
        partial(kernel, k=k, native=True, **static),
        interpreted_kernel=partial(kernel, k=k, native=False, **static),
        name=f"selective_scan_triton_{name}",
        grid=(k.blocks, k.batch * rows, k.segments),
        out_shape=out_shape,
        compiler_params=plgpu.CompilerParams(num_warps=k.num_warps, num_stages=1),
    )


def split_channels(v, k: Blocks):
    """View (..., d) as (..., x, c)."""
    return None if v is None else v.reshape(*v.shape[:-1], -1, tile(k)[3])


def split_gates(v, k: Blocks):
    """View (..., n) as (..., p, q)."""
    return None if v is None else v.reshape(*v.shape[:-1], *tile(k)[::2])


def split_states(v, k: Blocks):
    """View (..., n, d) as (..., p, q, x, c)."""
    p, _, q, c = tile(k)
    return None if v is None else v.reshape(*v.shape[:-2], p, q, -1, c)


def split(x: Operands, k: Blocks) -> Operands:
    """View all operands as the kernels index them."""
    return Operands(
        **{f: split_channels(getattr(x, f), k)
           for f in ("u", "delta", "D", "z", "delta_bias")},
        B=split_gates(x.B, k), C=split_gates(x.C, k), A=split_states(x.A, k),
        keep=x.keep,
    )  # fmt: skip


def join(v, like):
    """View what a kernel wrote in the shape that the maps expect."""
    return v.reshape(like)


def run_scan(x: Operands, starts, k: Blocks, save_states: bool, delta_softplus: bool):
    """See `gpu_maps.Kernels`."""
    states = split_states(starts, k).shape[2:]
    v = split(x, k)
    out_shape = [struct(v.u.shape, x.u.dtype), struct((k.batch, k.segments, *states))]
    if save_states:
        out_shape.append(struct((k.batch, k.chunks, *states)))
    run = launch(scan_kernel, "scan", k, out_shape, delta_softplus=delta_softplus)
    y, ends, *saved = run(v, split_states(starts, k))
    shape = (k.n, k.padded)
    saved = saved[0].reshape(k.batch, k.chunks, *shape) if save_states else None
    return y.reshape(x.u.shape), ends.reshape(k.batch, k.segments, *shape), saved


def run_segment_ends(x: Operands, k: Blocks, delta_softplus: bool):
    """See `gpu_maps.Kernels`."""
    shape = (k.batch, k.segments, k.n, k.padded)
    out = struct((*shape[:2], *split_states(x.A, k).shape))
    run = launch(
        segment_ends_kernel, "segment_ends", k, [out] * 2, delta_softplus=delta_softplus
    )
    return [v.reshape(shape) for v in run(split(x, k))]


def run_segment_starts(x: Operands, d_y, k: Blocks, delta_softplus: bool):
    """See `gpu_maps.Kernels`."""
    directions, shape = d_y.shape[0], (k.batch, k.segments, k.n, k.padded)
    together = run_over_directions(directions, MOST_DIRECTIONS)
    decay = struct((*shape[:2], *split_states(x.A, k).shape))
    run = launch(
        segment_starts_kernel, "segment_starts", k,
        [struct((directions, *decay.shape)), decay],
        rows=directions // together, together=together, delta_softplus=delta_softplus,
    )  # fmt: skip
    starts, decay = run(split(x, k), split_channels(d_y, k))
    return starts.reshape(directions, *shape), decay.reshape(shape)


def run_tangent(
    x: Operands, t: Operands, starts, d_starts, k: Blocks, delta_softplus: bool
):
    """See `gpu_maps.Kernels`."""
    directions = d_starts.shape[0]
    together = run_over_directions(directions, MOST_DIRECTIONS)
    starts, states = split_states(starts, k), split_states(d_starts, k)
    y = struct((directions, *split_channels(x.u, k).shape), x.u.dtype)
    run = launch(
        tangent_kernel, "tangent", k, [y, struct(states.shape)],
        rows=directions // together, together=together, delta_softplus=delta_softplus,
    )  # fmt: skip
    d_y, d_ends = run(split(x, k), split(t, k), starts, states)
    return d_y.reshape(directions, *x.u.shape), d_ends.reshape(d_starts.shape)


def run_cotangent(
    x: Operands, chunk_states, d_y, g_ends, k: Blocks, delta_softplus, wanted
) -> Pulled:
    """See `gpu_maps.Kernels`."""
    directions, b, l = d_y.shape[:3]  # noqa: E741
    together = run_over_directions(directions, MOST_DIRECTIONS)
    by_token = (directions, b, l, k.padded)
    by_state = (directions, b, k.segments, k.n, k.padded)
    gates = (k.blocks, directions, b, l, k.n)
    parameters = (directions, b, k.segments, k.padded)
    shapes = Pulled(
        g=struct(by_state), A=struct(by_state), B=struct(gates), C=struct(gates),
        D=struct(parameters), delta_bias=struct(parameters),
        **{f: struct(by_token, getattr(x, f).dtype)
           for f in ("u", "delta", "z") if f in wanted},
    )  # fmt: skip
    shapes = {f: v for f, v in shapes._asdict().items() if f in ("g", *wanted)}
    splits = {"g": split_states, "A": split_states, "B": split_gates, "C": split_gates}

    def view(f, v):
        return splits.get(f, split_channels)(v, k)

    out_shape = {f: jax.eval_shape(partial(view, f), v) for f, v in shapes.items()}
    run = launch(
        cotangent_kernel, "cotangent", k, out_shape, rows=directions // together,
        together=together, delta_softplus=delta_softplus,
    )  # fmt: skip
    out = run(
        split(x, k), split_states(chunk_states, k), split_channels(d_y, k),
        split_states(g_ends, k),
    )  # fmt: skip
    return Pulled(**{f: v.reshape(shapes[f].shape) for f, v in out.items()})


KERNELS = Kernels(
    name="pallas_triton",
    scan_shape=Shape(states_per_lane=16, num_warps=1, tokens=4),
    tangent_shape=Shape(states_per_lane=8, num_warps=1, tokens=1),
    cotangent_shape=Shape(states_per_lane=4, num_warps=4, tokens=4),
    scan=run_scan,
    tangent=run_tangent,
    cotangent=run_cotangent,
    segment_ends=run_segment_ends,
    segment_starts=run_segment_starts,
)

pallas_triton = gpu_implementation(KERNELS)
