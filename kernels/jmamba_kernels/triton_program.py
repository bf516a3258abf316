"""One program of the Triton kernels: what it reads, and a token's arithmetic.

States are tiles with the axes (p, w, q, c): p states in a lane and q lanes over them,
c channels by w warps. Triton deals lanes out from the last axis on, then warps, so
a warp is q x c and every operand of a token is read where it is used: nothing goes
through shared memory but the sums over channels that cross warps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jmamba_kernels.contract import CHUNK
from jmamba_kernels.gpu_blocks import LANES, Blocks, Operands
from jmamba_kernels.gpu_elementwise import softplus
from jmamba_kernels.gpu_maps import struct

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
    """Write a token's (w, c) value unless the token is past the end.

    The q lanes that share it all write it: as (w, q, c) it lies in the threads as it
    was computed, while (w, c) alone would be moved through shared memory first.
    """
    _, w, q, c = at.tile
    shape = (w, q, c)
    x = at.block * at.k.num_warps + jnp.arange(w)
    x = jnp.broadcast_to(x[:, None, None], shape)
    lanes = jnp.broadcast_to(jnp.arange(c)[None, None], shape)
    view = ref.at[(*lead, at.row, at.clip(t), x, lanes)]
    write_at(view, at, t, jnp.broadcast_to(value[:, None], shape))


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


def keep_until(x: Operands, at: Program, kept, t):
    """Return zero once a reset was met."""
    if x.keep is None:
        return kept
    return kept * jnp.where(at.holds(t), x.keep[at.row, at.clip(t)], 1.0)


class Step(NamedTuple):
    """What the reversed pass needs of a token."""

    t: jax.Array
    token: Token
    raw: jax.Array
    delta: jax.Array
    A_bar: jax.Array
    h_before: jax.Array
    h: jax.Array


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
