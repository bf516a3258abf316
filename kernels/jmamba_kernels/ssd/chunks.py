"""Chunks of tokens: how they are cut, and how their tokens see each other.

States lie as (n, h, p), so that products with B and C need not transpose them; sums
over a minor axis are products with ones, which XLA:CPU runs several times as fast.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jmamba_kernels.selective_scan.contract import accumulation_dtype, keep_mask
from jmamba_kernels.ssd.contract import SSD_CHUNK, SsdInputs
from jmamba_kernels.ssd.sums import running_sums


def product(spec: str, x: Array, y: Array) -> Array:
    """Return an einsum of two arrays, the first as the left operand.

    `jnp.einsum` may swap them, and would then transpose states in every chunk.
    """
    axes, out = spec.split("->")
    first, second = axes.split(",")
    shared = [letter for letter in first if letter in second]
    batch = [letter for letter in shared if letter in out]
    summed = [letter for letter in shared if letter not in out]
    sums, batches = (
        (tuple(map(first.index, letters)), tuple(map(second.index, letters)))
        for letters in (summed, batch)
    )
    made = lax.dot_general(x, y, (sums, batches), precision=lax.Precision.HIGHEST)
    order = [*batch, *(a for a in first + second if a not in shared)]
    return jnp.transpose(made, tuple(map(order.index, out)))


class ChunkOperands(NamedTuple):
    """The operands of one chunk of t tokens; heads are r in each of g groups."""

    u: Float[Array, "b t g r p"]
    delta: Float[Array, "b t g r"]
    B: Float[Array, "b t g n"]
    C: Float[Array, "b t g n"]
    starts: Array | None


class ChunkWeights(NamedTuple):
    """How tokens i of a chunk see tokens j, the state before it, and its last one j.

    W = (C B^T) L is all that a token sees of the chunk's others. L and W have the axes
    i j, or j i where they are asked for transposed.
    """

    L: Float[Array, "b g r t t"]
    W: Float[Array, "b g r t t"]
    since: Float[Array, "b i g r"]
    until: Float[Array, "b j g r"]


def cut_chunks(x: Array, axis: int = 1) -> Array:
    """Cut a time axis into chunks, (..., l, ...) -> (m, ..., t, ...), zeros behind."""
    chunks = -(-x.shape[axis] // SSD_CHUNK)
    pad = [(0, 0)] * x.ndim
    pad[axis] = (0, chunks * SSD_CHUNK - x.shape[axis])
    shape = (*x.shape[:axis], chunks, SSD_CHUNK, *x.shape[axis + 1 :])
    return jnp.moveaxis(jnp.pad(x, pad).reshape(shape), axis, 0)


def join_chunks(x: Array, length: int, axis: int = 1) -> Array:
    """Undo `cut_chunks` of a sequence of so many tokens."""
    x = jnp.moveaxis(x, 0, axis)
    x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
    return lax.slice_in_dim(x, 0, length, axis=axis)


def by_group(x: Array, groups: int, axis: int) -> Array:
    """Split an axis of heads, (..., h, ...) -> (..., g, r, ...)."""
    return x.reshape(*x.shape[:axis], groups, -1, *x.shape[axis + 1 :])


def by_head(x: Array, axis: int) -> Array:
    """Undo `by_group`."""
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def open_chunks(inputs: SsdInputs) -> tuple[ChunkOperands, Float[Array, "g r"]]:
    """Return all chunks along a leading axis, and A, in the dtype of the state."""
    dtype = accumulation_dtype(inputs.u.dtype)
    u, delta, A, B, C = (x.astype(dtype) for x in inputs[:5])
    groups = B.shape[2]
    u, delta = (by_group(x, groups, 2) for x in (u, delta))
    starts = None
    if inputs.segment_ids is not None:
        starts = cut_chunks(~keep_mask(inputs.segment_ids))
    # padding with zeros is the identity: delta = 0 keeps the state
    u, delta, B, C = (cut_chunks(x) for x in (u, delta, B, C))
    return ChunkOperands(u, delta, B, C, starts), by_group(A, groups, 0)


def open_state(
    state: Float[Array, "*k b h p n"], groups: int
) -> Float[Array, "*k b g n r p"]:
    """Return a state as the loops have it, (..., g, n, r, p)."""
    return jnp.moveaxis(by_group(state, groups, state.ndim - 3), -1, -3)


def close_state(
    state: Float[Array, "*k b g n r p"],
) -> Float[Array, "*k b h p n"]:
    """Undo `open_state`."""
    return by_head(jnp.moveaxis(state, -3, -1), state.ndim - 4)


def first_state(inputs: SsdInputs) -> Float[Array, "b g n r p"]:
    """Return the state before the first token, zero if there is none."""
    dtype, groups = accumulation_dtype(inputs.u.dtype), inputs.B.shape[2]
    if inputs.initial_state is not None:
        return open_state(inputs.initial_state.astype(dtype), groups)
    (batch, _, heads, width), n = inputs.u.shape, inputs.B.shape[3]
    return jnp.zeros((batch, groups, n, heads // groups, width), dtype)


def sum_last(x: Float[Array, "*x n"]) -> Float[Array, "*x"]:
    """Return the sum over the last axis, as a product with ones."""
    flat = x.reshape(-1, x.shape[-1])
    ones = jnp.ones(x.shape[-1:], x.dtype)
    return product("ap,p->a", flat, ones).reshape(x.shape[:-1])


def sum_heads(x: Float[Array, "b g r t t"]) -> Float[Array, "b g t t"]:
    """Return the sum over the heads of a group, as a product with ones."""
    return product("r,bgrij->bgij", jnp.ones(x.shape[2:3], x.dtype), x)


def weigh_chunk(
    A: Float[Array, "g r"], x: ChunkOperands, *, transposed: bool = False
) -> ChunkWeights:
    """Return the weights of a chunk; exponents are masked before exp.

    Args:
      A: rates of decay.
      x: the chunk.
      transposed: whether L and W have the axes j i.
    """
    steps = jnp.moveaxis(x.delta * A[None, None], 1, -1)  # b g r t
    so_far, between = running_sums(steps, transposed=transposed)
    causal = jnp.tri(SSD_CHUNK, dtype=bool)
    causal = (causal.T if transposed else causal)[None, None, None]
    if x.starts is not None:
        run = jnp.cumsum(x.starts, axis=1)  # number of the segment, in the chunk
        causal = causal & (run[:, :, None] == run[:, None])[:, None, None]
        so_far = jnp.where((run == 0)[:, None, None], so_far, -jnp.inf)
    L = jnp.exp(jnp.where(causal, between, -jnp.inf))
    pair = (x.B, x.C) if transposed else (x.C, x.B)
    scores = product("bign,bjgn->bgij", *pair)
    last = L[..., -1] if transposed else L[..., -1, :]
    since, until = (jnp.moveaxis(w, -1, 1) for w in (jnp.exp(so_far), last))
    return ChunkWeights(L, scores[:, :, None] * L, since, until)


def kept_at_end(w: ChunkWeights) -> Float[Array, "b g 1 r 1"]:
    """Return what is left of the state before the chunk, for every n and p."""
    return w.since[:, -1, :, None, :, None]
