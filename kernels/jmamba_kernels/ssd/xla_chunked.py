"""Mamba-2's recurrence in plain XLA: chunk after chunk, each a few matrix products.

With c the running sum of delta A within a chunk, L[i, j] = exp(c[i] - c[j]) for j <= i
and x = delta u, a chunk that starts from the state h is

    y[i] = sum_j (C[i] . B[j]) L[i, j] x[j] + exp(c[i]) h C[i]
    h'   = exp(c[last]) h + sum_j L[last, j] x[j] B[j]^T

and all that is as large as the square of a chunk's length belongs to one chunk. Where
a new segment starts, all decays across the start are 0. Derivatives are written out:
the cotangent walks through the chunks from the last one on, starting from saved states.

References:
  Dao & Gu, "Transformers are SSMs", arXiv 2405.21060, section 6 and listing 1.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jmamba_kernels.selective_scan.contract import Implementation
from jmamba_kernels.ssd.chunks import (
    ChunkOperands,
    ChunkWeights,
    by_group,
    by_head,
    close_state,
    cut_chunks,
    first_state,
    join_chunks,
    kept_at_end,
    open_chunks,
    open_state,
    product,
    sum_heads,
    sum_last,
    weigh_chunk,
)
from jmamba_kernels.ssd.contract import SsdInputs, SsdResult, some_ssd_inputs
from jmamba_kernels.ssd.sums import rectangle_sums, running_sums


def _advance(h, x: ChunkOperands, w: ChunkWeights):
    """Return what a chunk puts out, and the state after it."""
    values = x.delta[..., None] * x.u
    y = product("bgrij,bjgrp->bigrp", w.W, values)
    y += w.since[..., None] * product("bign,bgnrp->bigrp", x.C, h)
    inflow = product("bjgn,bjgrp->bgnrp", x.B, w.until[..., None] * values)
    return y, kept_at_end(w) * h + inflow


def _scan(inputs: SsdInputs, *, save_states: bool = False) -> SsdResult:
    """Run the recurrence; see `jmamba_kernels.ssd.contract`."""
    chunks, A = open_chunks(inputs)

    def chunk(h, x):
        y, after = _advance(h, x, weigh_chunk(A, x))
        return after, (by_head(y, 2), h if save_states else None)

    last, (y, states) = lax.scan(chunk, first_state(inputs), chunks)
    if states is not None:  # m b g n r p -> b m n h p
        states = by_head(jnp.transpose(states, (1, 0, 3, 2, 4, 5)), 3)
    return SsdResult(join_chunks(y, inputs.u.shape[1]), close_state(last), states)


def _tangent(inputs: SsdInputs, tangents: SsdInputs):
    """Run the recurrence and k of its tangents together.

    The weights' own tangents are L' = L (c'[i] - c'[j]) and W' = (C B^T)' L + C B^T L'.
    """
    moving = {k: t for k, t in tangents._asdict().items() if t is not None}
    count = next(iter(moving.values())).shape[0]
    chunks, A = open_chunks(inputs)
    groups, first = inputs.B.shape[2], first_state(inputs)
    moving = {k: t.astype(first.dtype) for k, t in moving.items()}
    d_A = moving.pop("A", None)
    d_A = None if d_A is None else by_group(d_A, groups, 1)
    d_h = moving.pop("initial_state", None)
    if d_h is None:
        d_h = jnp.zeros((count, *first.shape), first.dtype)
    else:
        d_h = open_state(d_h, groups)
    for name in moving.keys() & {"u", "delta"}:
        moving[name] = by_group(moving[name], groups, 3)

    def one(h, x, w, d_h, d, d_A):
        """Push one direction through a chunk."""
        values = x.delta[..., None] * x.u
        read = product("bign,bgnrp->bigrp", x.C, h)
        d_y = w.since[..., None] * product("bign,bgnrp->bigrp", x.C, d_h)
        d_after = kept_at_end(w) * d_h
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
            d_after += kept_at_end(w) * so_far[:, :, None, :, -1:] * h
            kept = (w.until * d_until)[..., None] * values
            d_after += product("bjgn,bjgrp->bgnrp", x.B, kept)
        d_y += product("bgrij,bjgrp->bigrp", d_W, values)
        return d_y, d_after

    def chunk(carry, parts):
        h, d_h = carry
        x, d = parts
        w = weigh_chunk(A, x)
        axes = (None, None, None, 0, 0, None if d_A is None else 0)
        d_y, d_after = jax.vmap(one, axes)(h, x, w, d_h, d, d_A)
        return (_advance(h, x, w)[1], d_after), by_head(d_y, 3)

    parts = chunks, {k: cut_chunks(t, 2) for k, t in moving.items()}
    (_, d_last), d_y = lax.scan(chunk, (first, d_h), parts)
    return join_chunks(d_y, inputs.u.shape[1], 2), close_state(d_last)


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
    chunks, A = open_chunks(inputs)
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
        d_scores = sum_heads(outer * w.L)
        d_C = product("bgji,bjgn->bign", d_scores, x.B)
        d_C += product("bgnrp,bigrp->bign", h, d_since)
        d_B = product("bgji,bign->bjgn", d_scores, x.C)
        d_B += product("bgnrp,bjgrp->bjgn", G, kept)
        behind = sum_last(d_since * read)  # b i g r
        ahead = sum_last(kept * GB)
        through = jnp.sum(sum_last(kept_at_end(w) * G * h), axis=2)
        d_steps = jnp.moveaxis(rectangle_sums(outer * w.W), -1, 1)
        d_steps += jnp.flip(jnp.cumsum(jnp.flip(behind, 1), axis=1), 1)
        d_steps += jnp.cumsum(ahead, axis=1) - ahead + through[:, None]
        d_delta = d_steps * A[None, None] + sum_last(d_values * x.u)
        d_A = jnp.sum(x.delta * d_steps, axis=1)
        d_h = kept_at_end(w) * G + product("bign,bigrp->bgnrp", x.C, d_since)
        return d_h, d_A, (x.delta[..., None] * d_values, d_delta, d_B, d_C)

    def chunk(carry, parts):
        G, d_A = carry
        x, h, d_y = parts
        w = weigh_chunk(A, x, transposed=True)
        read = product("bign,bgnrp->bigrp", x.C, h)
        each = jax.vmap(one, (None, None, None, None, 0, 0))
        d_h, d_A_chunk, d = each(h, x, w, read, G, d_y)
        return (d_h, d_A + d_A_chunk), d

    dtype = chunks.u.dtype
    G = open_state(d_last_state.astype(dtype), groups)
    # of each row: a sum over rows in the loop would be one over devices as well
    d_A = jnp.zeros((*G.shape[:3], G.shape[4]), dtype)
    states = by_group(chunk_states, groups, 3)  # b m n g r p -> m b g n r p
    states = jnp.transpose(states, (1, 0, 3, 2, 4, 5))
    d_y = cut_chunks(by_group(d_y.astype(dtype), groups, 3), 2)
    (G, d_A), parts = lax.scan(chunk, (G, d_A), (chunks, states, d_y), reverse=True)
    d_u, d_delta, d_B, d_C = (join_chunks(x, inputs.u.shape[1], 2) for x in parts)
    found = {
        "u": by_head(d_u, 3),
        "delta": by_head(d_delta, 3),
        "A": by_head(jnp.sum(d_A, axis=1), 1),
        "B": d_B,
        "C": d_C,
        "initial_state": close_state(G),
    }
    return some_ssd_inputs(
        **{k: found[k].astype(getattr(inputs, k).dtype) for k in wanted}
    )


xla_chunked = Implementation(_scan, _tangent, _cotangent)
