"""Mamba-2's recurrence in plain XLA: chunk after chunk, each a few matrix products.

With c the running sum of delta A within a chunk, L[i, j] = exp(c[i] - c[j]) for j <= i
and x = delta u, a chunk that starts from the state h is

    y[i] = sum_j (C[i] . B[j]) L[i, j] x[j] + exp(c[i]) h C[i]
    h'   = exp(c[last]) h + sum_j L[last, j] x[j] B[j]^T

and all that is as large as the square of a chunk's length belongs to one chunk. Where
a new segment starts, all decays across the start are 0. Derivatives are written out:
the cotangent walks through the chunks from the last one on, starting from saved states.

States lie as (n, h, p), so that products with B and C need not transpose them; sums
over a minor axis are products with ones, which XLA:CPU runs several times as fast.

References:
  Dao & Gu, "Transformers are SSMs", arXiv 2405.21060, section 6 and listing 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jmamba_kernels.selective_scan.contract import (
    Implementation,
    accumulation_dtype,
    keep_mask,
)
from jmamba_kernels.ssd.contract import (
    SSD_CHUNK,
    SsdInputs,
    SsdResult,
    some_ssd_inputs,
)
from jmamba_kernels.ssd.sums import rectangle_sums, running_sums


def product(spec: str, x: Array, y: Array) -> Array:
    """Return an einsum of two arrays, the first as the left operand.

    `jnp.einsum` may swap them, and would then transpose states in every chunk.
    """
    axes, out = spec.split("->")
    first, second = axes.split(",")
    shared = [letter for letter in first if letter in second]
    batch = [letter for letter in shared if letter in out]
    summed = [letter for letter in shared if letter not in out]
    numbers = tuple(
        (tuple(map(first.index, letters)), tuple(map(second.index, letters)))
        for letters in (summed, batch)
    )
    made = lax.dot_general(x, y, numbers, precision=lax.Precision.HIGHEST)
    order = [*batch, *(a for a in first + second if a not in shared)]
    return jnp.transpose(made, tuple(map(order.index, out)))


class _Chunk(NamedTuple):
    """The operands of one chunk of t tokens; heads are r in each of g groups."""

    u: Float[Array, "b t g r p"]
    delta: Float[Array, "b t g r"]
    B: Float[Array, "b t g n"]
    C: Float[Array, "b t g n"]
    starts: Array | None


class _Weights(NamedTuple):
    """How tokens i of a chunk see tokens j, the state before it, and its last one j.

    W = (C B^T) L is all that a token sees of the chunk's others. L and W have the axes
    i j, or j i where they are asked for transposed.
    """

    L: Float[Array, "b g r t t"]
    W: Float[Array, "b g r t t"]
    since: Float[Array, "b i g r"]
    until: Float[Array, "b j g r"]


def _split(x, axis=1):
    """Cut a time axis into chunks, (..., l, ...) -> (m, ..., t, ...), zeros behind."""
    chunks = -(-x.shape[axis] // SSD_CHUNK)
    pad = [(0, 0)] * x.ndim
    pad[axis] = (0, chunks * SSD_CHUNK - x.shape[axis])
    shape = (*x.shape[:axis], chunks, SSD_CHUNK, *x.shape[axis + 1 :])
    return jnp.moveaxis(jnp.pad(x, pad).reshape(shape), axis, 0)


def _join(x, length, axis=1):
    """Undo `_split`."""
    x = jnp.moveaxis(x, 0, axis)
    x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
    return lax.slice_in_dim(x, 0, length, axis=axis)


def _by_group(x, groups, axis):
    """Split an axis of heads, (..., h, ...) -> (..., g, r, ...)."""
    return x.reshape(*x.shape[:axis], groups, -1, *x.shape[axis + 1 :])


def _by_head(x, axis):
    """Undo `_by_group`."""
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _chunks(inputs: SsdInputs) -> tuple[_Chunk, Float[Array, "g r"]]:
    """Return all chunks along a leading axis, and A, in the dtype of the state."""
    dtype = accumulation_dtype(inputs.u.dtype)
    u, delta, A, B, C = (x.astype(dtype) for x in inputs[:5])
    groups = B.shape[2]
    u, delta = (_by_group(x, groups, 2) for x in (u, delta))
    starts = None
    if inputs.segment_ids is not None:
        starts = _split(~keep_mask(inputs.segment_ids))
    # padding with zeros is the identity: delta = 0 keeps the state
    u, delta, B, C = (_split(x) for x in (u, delta, B, C))
    return _Chunk(u, delta, B, C, starts), _by_group(A, groups, 0)


def _open_state(state: Float[Array, "*k b h p n"], groups: int):
    """Return a state as the loops have it, (..., g, n, r, p)."""
    return jnp.moveaxis(_by_group(state, groups, state.ndim - 3), -1, -3)


def _close_state(state: Float[Array, "*k b g n r p"]):
    """Undo `_open_state`."""
    return _by_head(jnp.moveaxis(state, -3, -1), state.ndim - 4)


def _first_state(inputs: SsdInputs) -> Float[Array, "b g n r p"]:
    dtype, groups = accumulation_dtype(inputs.u.dtype), inputs.B.shape[2]
    if inputs.initial_state is not None:
        return _open_state(inputs.initial_state.astype(dtype), groups)
    (batch, _, heads, width), n = inputs.u.shape, inputs.B.shape[3]
    return jnp.zeros((batch, groups, n, heads // groups, width), dtype)


def _sum_last(x: Float[Array, "*x n"]) -> Float[Array, "*x"]:
    flat = x.reshape(-1, x.shape[-1])
    ones = jnp.ones(x.shape[-1:], x.dtype)
    return product("ap,p->a", flat, ones).reshape(x.shape[:-1])


def _sum_heads(x: Float[Array, "b g r t t"]) -> Float[Array, "b g t t"]:
    return product("r,bgrij->bgij", jnp.ones(x.shape[2:3], x.dtype), x)


def _weigh(A, x: _Chunk, *, transposed: bool = False) -> _Weights:
    """Return the weights of a chunk; exponents are masked before exp."""
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
    return _Weights(L, scores[:, :, None] * L, since, until)


def _at_end(w: _Weights):
    """Return what is left of the state before the chunk, (b, g, n=1, r, p=1)."""
    return w.since[:, -1, :, None, :, None]


def _advance(h, x: _Chunk, w: _Weights):
    """Return what a chunk puts out, and the state after it."""
    values = x.delta[..., None] * x.u
    y = product("bgrij,bjgrp->bigrp", w.W, values)
    y += w.since[..., None] * product("bign,bgnrp->bigrp", x.C, h)
    inflow = product("bjgn,bjgrp->bgnrp", x.B, w.until[..., None] * values)
    return y, _at_end(w) * h + inflow


def _scan(inputs: SsdInputs, *, save_states: bool = False) -> SsdResult:
    """Run the recurrence; see `jmamba_kernels.ssd.contract`."""
    chunks, A = _chunks(inputs)

    def chunk(h, x):
        y, after = _advance(h, x, _weigh(A, x))
        return after, (_by_head(y, 2), h if save_states else None)

    last, (y, states) = lax.scan(chunk, _first_state(inputs), chunks)
    if states is not None:  # m b g n r p -> b m n h p
        states = _by_head(jnp.transpose(states, (1, 0, 3, 2, 4, 5)), 3)
    return SsdResult(_join(y, inputs.u.shape[1]), _close_state(last), states)


def _tangent(inputs: SsdInputs, tangents: SsdInputs):
    """Run the recurrence and k of its tangents together.

    The weights' own tangents are L' = L (c'[i] - c'[j]) and W' = (C B^T)' L + C B^T L'.
    """
    moving = {k: t for k, t in tangents._asdict().items() if t is not None}
    count = next(iter(moving.values())).shape[0]
    chunks, A = _chunks(inputs)
    groups, first = inputs.B.shape[2], _first_state(inputs)
    moving = {k: t.astype(first.dtype) for k, t in moving.items()}
    d_A = moving.pop("A", None)
    d_A = None if d_A is None else _by_group(d_A, groups, 1)
    d_h = moving.pop("initial_state", None)
    if d_h is None:
        d_h = jnp.zeros((count, *first.shape), first.dtype)
    else:
        d_h = _open_state(d_h, groups)
    for name in moving.keys() & {"u", "delta"}:
        moving[name] = _by_group(moving[name], groups, 3)

    def one(h, x, w, d_h, d, d_A):
        """Push one direction through a chunk."""
        values = x.delta[..., None] * x.u
        read = product("bign,bgnrp->bigrp", x.C, h)
        d_y = w.since[..., None] * product("bign,bgnrp->bigrp", x.C, d_h)
        d_after = _at_end(w) * d_h
        d_W = jnp.zeros_like(w.W)
        if "C" in d:
            d_W += product("bign,bjgn->bgij", d["C"], x.B)[:, :, None] * w.L
            d_y += w.since[..., None] * product("bign,bgnrp->bigrp", d["C"], h)
        if "B" in d:
            d_W += product("bign,bjgn->bgij", x.C, d["B"])[:, :, None] * w.L
            kept = w.until[..., None] * values
            d_after += product("bjgn,bjgrp->bgnrp", d["B"], kept)
        if "u" in d or "delta" in d:
            d_values = jnp.zeros_like(values)
            if "u" in d:
                d_values += x.delta[..., None] * d["u"]
            if "delta" in d:
                d_values += d["delta"][..., None] * x.u
            d_y += product("bgrij,bjgrp->bigrp", w.W, d_values)
            kept = w.until[..., None] * d_values
            d_after += product("bjgn,bjgrp->bgnrp", x.B, kept)
        if "delta" in d or d_A is not None:
            d_steps = jnp.zeros_like(x.delta)
            if "delta" in d:
                d_steps += d["delta"] * A[None, None]
            if d_A is not None:
                d_steps += x.delta * d_A[None, None]
            so_far, between = running_sums(jnp.moveaxis(d_steps, 1, -1))
            d_W += w.W * between
            d_since, d_until = (
                jnp.moveaxis(v, -1, 1) for v in (so_far, between[..., -1, :])
            )
            d_y += (w.since * d_since)[..., None] * read
            d_after += _at_end(w) * so_far[:, :, None, :, -1:] * h
            kept = (w.until * d_until)[..., None] * values
            d_after += product("bjgn,bjgrp->bgnrp", x.B, kept)
        d_y += product("bgrij,bjgrp->bigrp", d_W, values)
        return d_y, d_after

    def chunk(carry, parts):
        h, d_h = carry
        x, d = parts
        w = _weigh(A, x)
        axes = (None, None, None, 0, 0, None if d_A is None else 0)
        d_y, d_after = jax.vmap(one, axes)(h, x, w, d_h, d, d_A)
        return (_advance(h, x, w)[1], d_after), _by_head(d_y, 3)

    parts = chunks, {k: _split(t, 2) for k, t in moving.items()}
    (_, d_last), d_y = lax.scan(chunk, (first, d_h), parts)
    return _join(d_y, inputs.u.shape[1], 2), _close_state(d_last)


def _cotangent(
    inputs: SsdInputs, chunk_states, d_y, d_last_state, *, wanted: tuple[str, ...]
) -> SsdInputs:
    """Walk back through the chunks with k cotangents together.

    With G the cotangent of the state after a chunk and P = W (d_y x^T),

        d_x[j]    = sum_i W[i, j] d_y[i] + L[last, j] G B[j]
        d_C[i]    = sum_j ((d_y x^T) L)[i, j] B[j] + exp(c[i]) h^T d_y[i]
        d_B[j]    = sum_i ((d_y x^T) L)[i, j] C[i] + L[last, j] G^T x[j]
        d_a[t]    = sum_{j < t <= i} P[i, j] + sum_{i >= t} exp(c[i]) d_y[i] . h C[i]
                    + sum_{j < t} L[last, j] x[j] . G B[j] + exp(c[last]) G . h
        d_h       = exp(c[last]) G + sum_i exp(c[i]) d_y[i] C[i]^T

    of which d_a, that of a = delta A, is not made of differences.
    """
    chunks, A = _chunks(inputs)
    groups = inputs.B.shape[2]

    def one(h, x, w, read, G, d_y):
        """Pull one cotangent through a chunk."""
        values = x.delta[..., None] * x.u
        d_since = w.since[..., None] * d_y
        kept = w.until[..., None] * values
        GB = product("bjgn,bgnrp->bjgrp", x.B, G)
        d_values = product("bgrji,bigrp->bjgrp", w.W, d_y)
        d_values += w.until[..., None] * GB
        outer = product("bjgrp,bigrp->bgrji", values, d_y)
        d_scores = _sum_heads(outer * w.L)
        d_C = product("bgji,bjgn->bign", d_scores, x.B)
        d_C += product("bgnrp,bigrp->bign", h, d_since)
        d_B = product("bgji,bign->bjgn", d_scores, x.C)
        d_B += product("bgnrp,bjgrp->bjgn", G, kept)
        behind = _sum_last(d_since * read)  # b i g r
        ahead = _sum_last(kept * GB)
        through = jnp.sum(_sum_last(_at_end(w) * G * h), axis=2)
        d_steps = jnp.moveaxis(rectangle_sums(outer * w.W), -1, 1)
        d_steps += jnp.flip(jnp.cumsum(jnp.flip(behind, 1), axis=1), 1)
        d_steps += jnp.cumsum(ahead, axis=1) - ahead + through[:, None]
        d_delta = d_steps * A[None, None] + _sum_last(d_values * x.u)
        d_A = jnp.sum(x.delta * d_steps, axis=1)
        d_h = _at_end(w) * G + product("bign,bigrp->bgnrp", x.C, d_since)
        return d_h, d_A, (x.delta[..., None] * d_values, d_delta, d_B, d_C)

    def chunk(carry, parts):
        G, d_A = carry
        x, h, d_y = parts
        w = _weigh(A, x, transposed=True)
        read = product("bign,bgnrp->bigrp", x.C, h)
        each = jax.vmap(one, (None, None, None, None, 0, 0))
        d_h, d_A_chunk, d = each(h, x, w, read, G, d_y)
        return (d_h, d_A + d_A_chunk), d

    dtype = chunks.u.dtype
    G = _open_state(d_last_state.astype(dtype), groups)
    # of each row: a sum over rows in the loop would be one over devices as well
    d_A = jnp.zeros((*G.shape[:3], G.shape[4]), dtype)
    states = _by_group(chunk_states, groups, 3)  # b m n g r p -> m b g n r p
    states = jnp.transpose(states, (1, 0, 3, 2, 4, 5))
    d_y = _split(_by_group(d_y.astype(dtype), groups, 3), 2)
    (G, d_A), parts = lax.scan(chunk, (G, d_A), (chunks, states, d_y), reverse=True)
    d_u, d_delta, d_B, d_C = (_join(x, inputs.u.shape[1], 2) for x in parts)
    found = {
        "u": _by_head(d_u, 3),
        "delta": _by_head(d_delta, 3),
        "A": _by_head(jnp.sum(d_A, axis=1), 1),
        "B": d_B,
        "C": d_C,
        "initial_state": _close_state(G),
    }
    return some_ssd_inputs(
        **{k: found[k].astype(getattr(inputs, k).dtype) for k in wanted}
    )


xla_chunked = Implementation(_scan, _tangent, _cotangent)
