"""Pallas Triton kernels of the selective scan, for Ampere and Ada.

    h[t] = exp(delta[t] A) keep[t] h[t-1] + delta[t] B[t] u[t]
    y[t] = (C[t] . h[t] + D u[t]) silu(z[t])

A program walks through one segment of one row and channel block with the states in
registers (`gpu_blocks` says how they lie) and reads every operand once. Where rows
and channels do not fill the chip the sequence is cut into segments: a first pass
finds where each would end if it started from zero, `combine_segments` turns these
ends into true starts, and all segments run in parallel.

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

from jmamba_kernels.contract import (
    CHUNK,
    Implementation,
    ScanInputs,
    ScanResult,
)
from jmamba_kernels.elementwise import silu, softplus
from jmamba_kernels.gpu_blocks import (
    SCAN,
    Blocks,
    GpuTiling,
    Operands,
    combine_segments,
    cut,
    lay_initial_state,
    lay_out,
    refuse_float64,
    state_shape,
    unlay_channels,
    unlay_states,
)
from jmamba_kernels.interpretation import pallas_call_anywhere


class Program(NamedTuple):
    """Where a program is: its channel block, batch row and segment."""

    block: jax.Array
    row: jax.Array
    segment: jax.Array
    k: Blocks

    @property
    def x(self):
        """The program's part of the axis x."""
        return pl.ds(self.block * self.k.tile[1], self.k.tile[1])

    @property
    def chunks(self):
        """The program's first chunk and the one behind its last."""
        first = self.segment * self.k.chunks_per_segment
        chunks = -(-self.k.length // CHUNK)
        return first, jnp.minimum(first + self.k.chunks_per_segment, chunks)

    @property
    def group(self):
        """The group of B and C that the program's channels belong to."""
        return self.block // self.k.blocks_per_group


class Token(NamedTuple):
    """One token's operands of a channel block, as read; (w, c) each."""

    u: jax.Array
    delta: jax.Array
    z: jax.Array | None


def read_token(x: Operands, at: Program, t) -> Token:
    """Read a token; behind the end, the last one again."""
    t = jnp.minimum(t, at.k.length - 1)
    return Token(*(
        None if ref is None else ref[at.row, t, at.x, :]
        for ref in (x.u, x.delta, x.z)
    ))  # fmt: skip


def read_gate(ref, at: Program, t):
    """Read B[t] or C[t] as (p, 1, q, 1)."""
    t = jnp.minimum(t, at.k.length - 1)
    return ref[at.row, t, at.group].astype(jnp.float32)[:, None, :, None]


def raw_delta(x: Operands, at: Program, token: Token):
    """Return delta + delta_bias."""
    delta = token.delta.astype(jnp.float32)
    if x.delta_bias is None:
        return delta
    return delta + x.delta_bias[at.x, :].astype(jnp.float32)


def step_size(x: Operands, at: Program, token: Token, t, delta_softplus: bool):
    """Return delta[t] as the recurrence takes it; zero, the identity, past the end."""
    delta = raw_delta(x, at, token)
    if delta_softplus:
        delta = softplus(delta)
    return jnp.where(t < at.k.length, delta, 0.0) if at.k.ragged else delta


def decay(x: Operands, at: Program, A, delta, t):
    """Return exp(delta[t] A) keep[t] as (p, w, q, c)."""
    A_bar = jnp.exp2(A * over_states(delta))
    if x.keep is None:
        return A_bar
    keep = x.keep[at.row, jnp.minimum(t, at.k.length - 1)]
    return A_bar * jnp.where(t < at.k.length, keep, 1.0)


def over_states(v):
    """Spread a (w, c) value over the states."""
    return v[None, :, None, :]


def sum_states(tile):
    """Sum a (p, w, q, c) tile over its states: first in a lane, then across lanes."""
    return jnp.sum(jnp.sum(tile, axis=0), axis=1)


def read_states(ref, index, at: Program):
    """Read a tile of states, stored as (..., p, q, x, c)."""
    return jnp.transpose(ref[(*index, slice(None), slice(None), at.x)], (0, 2, 1, 3))


def write_states(ref, index, at: Program, tile):
    """Write a tile of states."""
    tile = jnp.transpose(tile, (0, 2, 1, 3))
    ref[(*index, slice(None), slice(None), at.x)] = tile


def write_token(ref, index, at: Program, t, value):
    """Write a token's (w, c) value unless t is past the end."""
    view = ref.at[(*index, jnp.minimum(t, at.k.length - 1), at.x)]
    value = value.astype(ref.dtype)
    if at.k.ragged:
        plgpu.store(view, value, mask=jnp.full(value.shape, t < at.k.length))
    else:
        plgpu.store(view, value)


def here(k: Blocks) -> Program:
    """Return where the running program is; the grid is (blocks, rows, segments)."""
    return Program(pl.program_id(0), pl.program_id(1), pl.program_id(2), k)


def scan_kernel(x, starts_ref, y_ref, ends_ref, *saved, k: Blocks, delta_softplus):
    """Run the recurrence over a segment from its true start."""
    at = here(k)
    A = read_states(x.A, (), at)
    D = None if x.D is None else x.D[at.x, :].astype(jnp.float32)
    first, behind = at.chunks
    blocks = CHUNK // k.tokens

    def read(i):
        return [read_token(x, at, i * k.tokens + j) for j in range(k.tokens)]

    def advance(i, carry):
        h, tokens = carry
        for chunk_states_ref in saved:

            @pl.when(i % blocks == 0)
            def _():
                write_states(chunk_states_ref, (at.row, i // blocks), at, h)

        following = read(i + 1)  # on its way while this block is computed
        for j, token in enumerate(tokens):
            t = i * k.tokens + j
            u = token.u.astype(jnp.float32)
            delta = step_size(x, at, token, t, delta_softplus)
            h = decay(x, at, A, delta, t) * h
            h += over_states(delta * u) * read_gate(x.B, at, t)
            y = sum_states(h * read_gate(x.C, at, t))
            if D is not None:
                y += D * u
            if token.z is not None:
                y *= silu(token.z.astype(jnp.float32))
            write_token(y_ref, (at.row,), at, t, y)
        return h, following

    h = read_states(starts_ref, (at.row, at.segment), at)
    carry = (h, read(first * blocks))
    h, _ = lax.fori_loop(first * blocks, behind * blocks, advance, carry)
    write_states(ends_ref, (at.row, at.segment), at, h)


def launch(kernel, name, k: Blocks, out_shape, **static):
    """Return a kernel as a function of its operands."""
    return pallas_call_anywhere(
        partial(kernel, k=k, **static),
        name=f"selective_scan_triton_{name}",
        grid=(k.blocks, k.batch, k.segments),
        out_shape=out_shape,
        compiler_params=plgpu.CompilerParams(num_warps=k.tile[1], num_stages=1),
    )


def scan(
    inputs: ScanInputs,
    *,
    delta_softplus: bool,
    save_states: bool = False,
    tiling: GpuTiling | None = None,
) -> ScanResult:
    """Run the recurrence; see `contract`."""
    refuse_float64(inputs, "pallas_triton")
    k = cut(inputs, tiling, SCAN)
    x = lay_out(inputs, k)
    starts = lay_initial_state(inputs, k)[:, None]
    states = state_shape(k)
    out_shape = [
        jax.ShapeDtypeStruct(x.u.shape, x.u.dtype),
        jax.ShapeDtypeStruct((k.batch, k.segments, *states), jnp.float32),
    ]
    if save_states:
        chunks = -(-k.length // CHUNK)
        saved = (k.batch, chunks, *states)
        out_shape.append(jax.ShapeDtypeStruct(saved, jnp.float32))
    run = launch(scan_kernel, "scan", k, out_shape, delta_softplus=delta_softplus)
    y, ends, *saved = run(x, starts)
    n = inputs.A.shape[1]
    last_state = jnp.swapaxes(unlay_states(ends[:, -1], k, n), 1, 2)
    chunk_states = unlay_states(saved[0], k, n) if save_states else None
    return ScanResult(unlay_channels(y, k), last_state, chunk_states)
