"""The cotangent kernel for TPU: a chunk forward again, then back."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from jmamba_kernels.selective_scan.contract import CHUNK, ScanInputs
from jmamba_kernels.selective_scan.powers import LN_2
from jmamba_kernels.selective_scan.tpu.blocks import (
    OVER_TIME,
    Channels,
    Track,
    add_up,
    decay_state,
    groups_in,
    keep_real,
    make_tracks,
    read_channels,
    rows_of,
    scalars,
    set_initial_state,
)
from jmamba_kernels.selective_scan.tpu.elementwise import (
    finish,
    silu,
    step_size,
    step_slope,
)
from jmamba_kernels.selective_scan.tpu.layout import LANES, TOKENS, Layout

TOGETHER = 2
"""Tokens of the way back whose g and d_A are stored once."""


class _Sums(NamedTuple):
    """Scratch to sum products over a tile's channels, for every token and state.

    A load with stride 4 fills a register with two rows of each of four states. So four
    loads sum eight rows of four states down to two, and what is left is summed at
    the end of the chunk, for all tokens together.
    """

    products: jax.Ref  # (TOGETHER, n * 8, 128); rows beyond the tile's stay zero
    totals: jax.Ref  # (tokens * n * 2, 128)

    def put(self, i, value, slot=0):
        """Set the product of one state of a token, one slot a token."""
        rows = value.shape[0]
        if rows > TOKENS:
            value, rest = value[:TOKENS], value[TOKENS:]
            if rest.shape[0] < TOKENS:
                rest = jnp.pad(rest, ((0, TOKENS - rest.shape[0]), (0, 0)))
            value = value + rest
        self.products[slot, pl.ds(i * TOKENS, min(rows, TOKENS))] = value

    def reduce(self, token, slot=0):
        """Sum the products of a token over rows, but for pairs."""
        products = self.products.at[slot]
        states = products.shape[0] // TOKENS
        for quad in range(states // 4):
            total = add_up(
                [products[pl.ds(quad * 32 + row, 8, stride=4)] for row in range(4)]
            )
            start = pl.multiple_of(token * states * 2 + quad * TOKENS, TOKENS)
            self.totals[pl.ds(start, TOKENS)] = total

    def finish(self, out):
        """Sum the totals of all tokens over lanes; token, state, pair become lanes."""
        for row in range(out.shape[0]):
            block = self.totals[pl.ds(row * LANES, LANES)]
            out[row] = jnp.sum(block.T, axis=0)


class Chunk(NamedTuple):
    """What the two walks over a chunk of the cotangent share."""

    x: ScanInputs
    d: ScanInputs
    tracks: dict[str, Track]  # u, delta, z, d_y
    d_tracks: dict[str, Track]  # d_u, d_delta, d_z
    parameters: Channels
    h_ref: jax.Ref  # the state before every token, and after the last
    g_ref: jax.Ref  # A_bar[t+1] g[t+1]
    delta_ref: jax.Ref  # per token
    d_s_ref: jax.Ref  # per token
    sums: _Sums
    layout: Layout
    delta_softplus: bool
    start: jax.Array  # the chunk's first token

    def gates(self, token):
        """Return B[t] and C[t] as functions of the state."""
        return tuple(scalars(ref, self.layout, token) for ref in (self.x.B, self.x.C))


def _recompute(c: Chunk, group, t):
    """Walk forward over a token: its state, and d_C = h d_s, d_z, d_D."""
    now = group * TOKENS + t
    values = {name: track.read(group, t) for name, track in c.tracks.items()}
    u, d_s, z = values["u"], values["d_y"], values.get("z")
    delta = step_size(
        values["delta"], c.parameters.delta_bias, delta_softplus=c.delta_softplus
    )
    if z is not None:
        d_s = d_s * silu(z)
    delta_u = delta * u
    B, C = c.gates(now)
    terms = []
    for i in range(c.layout.padded_states):
        h = decay_state(c.x, delta, now, i) * c.h_ref[now, i] + delta_u * B(i)
        c.h_ref[now + 1, i] = h
        c.sums.put(i, h * d_s)
        if z is not None:
            terms.append(C(i) * h)
    c.sums.reduce(now)
    c.delta_ref[now], c.d_s_ref[now] = delta, d_s
    if z is not None:
        before_gate = finish(add_up(terms), u, c.parameters.D)
        _, slope = jax.jvp(silu, (z,), (values["d_y"],))
        c.d_tracks["z"].write(group, t, before_gate * slope)
    if c.d.D is not None:
        c.d.D[0, 0, 0] += d_s * u


def _pull_back(c: Chunk, group, step):
    """Walk backward over `TOGETHER` tokens, so that g and d_A are stored once for all.

    g[t] = C[t] d_s[t] + A_bar[t+1] g[t+1];   w[t] = A_bar[t] g[t] h[t-1]
    d_u = delta B . g + D d_s;                d_delta = A . w + u B . g
    d_A = sum_t delta w;                      d_B = g delta u
    """
    tokens = [TOKENS - 1 - (step * TOGETHER + i) for i in range(TOGETHER)]
    steps = [_read_step(c, group, t) for t in tokens]
    for i in range(c.layout.padded_states):
        g, d_A = c.g_ref[i], []
        for slot, (now, u, delta, d_s, gates, B_g, A_w) in enumerate(steps):
            B, C = gates
            g = g + C(i) * d_s
            B_g.append(B(i) * g)
            c.sums.put(i, g * (delta * u), slot)
            g = decay_state(c.x, delta, now, i) * g
            w = g * c.h_ref[now, i]
            A_w.append(c.x.A[0, i] * w)
            d_A.append(delta * w)
        c.g_ref[i] = g
        c.d.A[0, 0, 0, i] += add_up(d_A)
    for slot, (t, step) in enumerate(zip(tokens, steps, strict=True)):
        c.sums.reduce(step.now, slot)
        _write_step(c, group, t, step)


class _Step(NamedTuple):
    """A token on the way back, and the terms of its sums over states."""

    now: jax.Array
    u: jax.Array
    delta: jax.Array
    d_s: jax.Array
    gates: tuple
    B_g: list
    A_w: list


def _read_step(c: Chunk, group, t) -> _Step:
    now = group * TOKENS + t
    u = c.tracks["u"].read(group, t)
    return _Step(now, u, c.delta_ref[now], c.d_s_ref[now], c.gates(now), [], [])


def _write_step(c: Chunk, group, t, step: _Step):
    B_g = add_up(step.B_g)
    d_u = step.delta * B_g
    if c.parameters.D is not None:
        d_u += c.parameters.D * step.d_s
    c.d_tracks["u"].write(group, t, d_u)
    d_delta = step.u * B_g + LN_2 * add_up(step.A_w)  # x.A holds A log2(e)
    raw, bias = c.tracks["delta"].read(group, t), c.parameters.delta_bias
    d_delta *= step_slope(raw, bias, delta_softplus=c.delta_softplus)
    c.d_tracks["delta"].write(group, t, d_delta)
    if c.d.delta_bias is not None:
        c.d.delta_bias[0, 0, 0] += keep_real(c.layout, c.start + step.now, d_delta)


def cotangent_kernel(
    x,
    chunk_states,
    d_y,
    d_last_state,
    d,
    *,
    refs,
    sums,
    wide,
    layout,
    delta_softplus,
    over_tokens,
):
    """Pull the cotangents of y and the last state back over one chunk."""
    products = sums["products"]
    d_B_sums, d_C_sums = (_Sums(products, sums[k]) for k in "BC")
    tracks = make_tracks(x, wide) | {"d_y": Track(d_y.at[0, 0], wide["d_y"])}
    d_tracks = {
        name: Track(getattr(d, name).at[0, 0], wide["d_" + name])
        for name in OVER_TIME
        if getattr(d, name) is not None
    }
    time = pl.program_id(3)
    block = layout.blocks - 1 - time
    c = Chunk(
        x, d, tracks, d_tracks, read_channels(x), **refs,
        sums=d_C_sums, layout=layout, delta_softplus=delta_softplus,
        start=block * CHUNK,
    )  # fmt: skip
    set_initial_state(time, c.g_ref, d_last_state, (0, 0, 0))

    @pl.when(time == 0)
    def _():
        for ref in (d.A, d.D, d.delta_bias, products):
            if ref is not None:
                ref[...] = jnp.zeros_like(ref)

    for i in range(layout.padded_states):
        saved = chunk_states.at[0, 0, i // TOKENS]
        c.h_ref[0, i] = saved[rows_of(i % TOKENS, saved)]
    groups = groups_in(layout, block)

    def forward(group, _):
        for track in tracks.values():
            track.open(group)
        over_tokens(partial(_recompute, c, group))
        if "z" in d_tracks:
            d_tracks["z"].close(group)

    def backward(step, _):
        group = groups - 1 - step
        tracks["u"].open(group)
        tracks["delta"].open(group)
        pull_back = partial(_pull_back, c._replace(sums=d_B_sums), group)
        over_tokens(pull_back, TOKENS // TOGETHER)
        d_tracks["u"].close(group)
        d_tracks["delta"].close(group)

    lax.fori_loop(0, groups, forward, None)
    lax.fori_loop(0, groups, backward, None)
    d_B_sums.finish(d.B.at[0, 0, 0, 0])
    d_C_sums.finish(d.C.at[0, 0, 0, 0])

    @pl.when(time == layout.blocks - 1)
    def _():
        d.initial_state[0, 0, 0] = c.g_ref[...]
