"""The selective scan for TPU: three Mosaic kernels.

    h[t] = exp(delta[t] A) keep[t] h[t-1] + delta[t] B[t] u[t]
    y[t] = (C[t] . h[t] + D u[t]) silu(z[t])

A program owns a tile of channels and walks through time; the grid's last axis carries
the state in VMEM scratch from block to block. `tpu_layout` says how operands lie. The
eight tokens of a memory tile are unrolled, and so are the states: every token is
straight-line vector code. log2(e) is folded into A, the chip's exponential being 2^x.

References:
  Gu & Dao, "Mamba", arXiv 2312.00752, section 3.3 (recomputation) and algorithm 2.
"""

import math
import operator
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jmamba_kernels.contract import (
    CHUNK,
    Implementation,
    ScanInputs,
    ScanResult,
    keep_mask,
    some_inputs,
)
from jmamba_kernels.elementwise import finish, silu, step_size, step_slope
from jmamba_kernels.interpretation import pallas_call_anywhere
from jmamba_kernels.tpu_layout import (
    LANES,
    TOKENS,
    Layout,
    TpuTiling,
    choose_rows,
)

LOG2_E = math.log2(math.e)
LN_2 = math.log(2)
TOGETHER = 2
"""Tokens of the cotangent's way back whose g and d_A are stored once."""

NO_STEP = -1e4
"""A delta before softplus that is zero after it, whatever the bias."""
OVER_TIME = ("u", "delta", "z")


class Track(NamedTuple):
    """Values over time in a block, one (rows, 128) tile in float32 for each token.

    Half precision packs two tokens in a register's row, so eight tokens go through
    `wide`, a float32 scratch, between block and kernel.
    """

    block: jax.Ref
    wide: jax.Ref | None

    def open(self, group):
        """Make the eight tokens of a group readable."""
        if self.wide is not None:
            self.wide[...] = self.block[group].astype(jnp.float32)

    def read(self, group, token):
        """Return one token of an open group."""
        if self.wide is None:
            return self.block[group, _rows_of(token, self.block)]
        return self.wide[_rows_of(token, self.wide)]

    def write(self, group, token, value):
        """Set one token."""
        if self.wide is None:
            self.block[group, _rows_of(token, self.block)] = value
        else:
            self.wide[_rows_of(token, self.wide)] = value

    def close(self, group):
        """Bring the eight written tokens of a group into the block."""
        if self.wide is not None:
            self.block[group] = self.wide[...].astype(self.block.dtype)


def _rows_of(token, ref):
    return pl.ds(token, ref.shape[-2] // TOKENS, stride=TOKENS)


def _tracks(refs, wide, lead=(0,)) -> dict[str, Track]:
    """Return the tracks of those of u, delta, z that are there."""
    return {
        name: Track(ref.at[lead], wide[name])
        for name, ref in refs._asdict().items()
        if name in OVER_TIME and ref is not None
    }


class Channels(NamedTuple):
    """Parameters of a tile of channels, (rows, 128) each, in float32."""

    D: jax.Array | None
    delta_bias: jax.Array | None


def _read_channels(x: ScanInputs, lead=(0,)) -> Channels:
    return Channels(*(None if r is None else r[lead] for r in (x.D, x.delta_bias)))


def _scalars(ref, layout: Layout, token, lead=(0, 0, 0, 0)):
    """Return a function from a state to the scalar B[t, n] or C[t, n]."""
    start = token * layout.padded_states
    return lambda i: ref[(*lead, start + i)]


def _decay(x: ScanInputs, delta, token, i):
    """Return exp(delta A) keep for one state."""
    A_bar = jnp.exp2(delta * x.A[0, i])
    return A_bar if x.segment_ids is None else A_bar * x.segment_ids[0, 0, 0, token]


def _groups_in(layout: Layout, block, first=0, count=None):
    """Return how many groups of eight tokens from `first` on are in the sequence."""
    total = -(-layout.length // TOKENS)
    per_block = layout.tokens // TOKENS
    count = per_block if count is None else count
    return jnp.clip(total - block * per_block - first, 0, count)


def _sum(terms):
    return reduce(operator.add, terms)


def _start(time, state_ref, initial_ref, lead=(0, 0)):
    """Set the state before the first block of time."""

    @pl.when(time == 0)
    def _():
        if initial_ref is None:
            state_ref[...] = jnp.zeros_like(state_ref)
        else:
            state_ref[...] = initial_ref[lead]


# Forward ------------------------------------------------------------------------------


def _scan_kernel(x, out, *, h_ref, wide, layout: Layout, delta_softplus, over_tokens):
    tracks, y_track = _tracks(x, wide), Track(out.y.at[0], wide["y"])
    parameters = _read_channels(x)
    per_chunk, time = CHUNK // TOKENS, pl.program_id(3)
    _start(time, h_ref, x.initial_state)

    def token(group, t):
        now = group * TOKENS + t
        values = {name: track.read(group, t) for name, track in tracks.items()}
        delta = step_size(
            values["delta"], parameters.delta_bias, delta_softplus=delta_softplus
        )
        delta_u = delta * values["u"]
        B, C = _scalars(x.B, layout, now), _scalars(x.C, layout, now)
        terms = []
        for i in range(layout.padded_states):
            h = _decay(x, delta, now, i) * h_ref[i] + delta_u * B(i)
            h_ref[i] = h
            terms.append(C(i) * h)
        s = _sum(terms)
        y_track.write(group, t, finish(s, values["u"], parameters.D, values.get("z")))

    def run_group(group, _):
        for track in tracks.values():
            track.open(group)
        over_tokens(partial(token, group))
        y_track.close(group)

    def run_chunk(chunk, _):
        if out.chunk_states is not None:
            for i in range(layout.padded_states):
                saved = out.chunk_states.at[0, chunk, i // TOKENS]
                saved[_rows_of(i % TOKENS, saved)] = h_ref[i]
        first = chunk * per_chunk
        count = _groups_in(layout, time, first, per_chunk)
        lax.fori_loop(first, first + count, run_group, None)

    lax.fori_loop(0, layout.chunks, run_chunk, None)

    @pl.when(time == layout.blocks - 1)
    def _():
        out.last_state[0, 0] = h_ref[...]


# Cotangent ----------------------------------------------------------------------------


class Sums(NamedTuple):
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
            total = _sum(
                [products[pl.ds(quad * 32 + row, 8, stride=4)] for row in range(4)]
            )
            start = pl.multiple_of(token * states * 2 + quad * TOKENS, TOKENS)
            self.totals[pl.ds(start, TOKENS)] = total

    def finish(self, out):
        """Sum the totals of all tokens over lanes; token, state and pair become lanes."""
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
    sums: Sums
    layout: Layout
    delta_softplus: bool

    def gates(self, token):
        """Return B[t] and C[t] as functions of the state."""
        return tuple(_scalars(ref, self.layout, token) for ref in (self.x.B, self.x.C))


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
        h = _decay(c.x, delta, now, i) * c.h_ref[now, i] + delta_u * B(i)
        c.h_ref[now + 1, i] = h
        c.sums.put(i, h * d_s)
        if z is not None:
            terms.append(C(i) * h)
    c.sums.reduce(now)
    c.delta_ref[now], c.d_s_ref[now] = delta, d_s
    if z is not None:
        before_gate = finish(_sum(terms), u, c.parameters.D)
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
            g = _decay(c.x, delta, now, i) * g
            w = g * c.h_ref[now, i]
            A_w.append(c.x.A[0, i] * w)
            d_A.append(delta * w)
        c.g_ref[i] = g
        c.d.A[0, 0, 0, i] += _sum(d_A)
    for slot, (t, step) in enumerate(zip(tokens, steps, strict=True)):
        c.sums.reduce(step.now, slot)
        _write_step(c, group, t, step)


class Step(NamedTuple):
    """A token on the way back, and the terms of its sums over states."""

    now: jax.Array
    u: jax.Array
    delta: jax.Array
    d_s: jax.Array
    gates: tuple
    B_g: list
    A_w: list


def _read_step(c: Chunk, group, t) -> Step:
    now = group * TOKENS + t
    u = c.tracks["u"].read(group, t)
    return Step(now, u, c.delta_ref[now], c.d_s_ref[now], c.gates(now), [], [])


def _write_step(c: Chunk, group, t, step: Step):
    B_g = _sum(step.B_g)
    d_u = step.delta * B_g
    if c.parameters.D is not None:
        d_u += c.parameters.D * step.d_s
    c.d_tracks["u"].write(group, t, d_u)
    d_delta = step.u * B_g + LN_2 * _sum(step.A_w)  # x.A holds A log2(e)
    raw, bias = c.tracks["delta"].read(group, t), c.parameters.delta_bias
    d_delta *= step_slope(raw, bias, delta_softplus=c.delta_softplus)
    c.d_tracks["delta"].write(group, t, d_delta)
    if c.d.delta_bias is not None:
        c.d.delta_bias[0, 0, 0] += d_delta


def _cotangent_kernel(
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
    products = sums["products"]
    d_B_sums, d_C_sums = (Sums(products, sums[k]) for k in "BC")
    tracks = _tracks(x, wide) | {"d_y": Track(d_y.at[0, 0], wide["d_y"])}
    d_tracks = {
        name: Track(getattr(d, name).at[0, 0], wide["d_" + name])
        for name in OVER_TIME
        if getattr(d, name) is not None
    }
    c = Chunk(
        x, d, tracks, d_tracks, _read_channels(x), **refs,
        sums=d_C_sums, layout=layout, delta_softplus=delta_softplus,
    )  # fmt: skip
    time = pl.program_id(3)
    _start(time, c.g_ref, d_last_state, (0, 0, 0))

    @pl.when(time == 0)
    def _():
        for ref in (d.A, d.D, d.delta_bias, products):
            if ref is not None:
                ref[...] = jnp.zeros_like(ref)

    for i in range(layout.padded_states):
        saved = chunk_states.at[0, 0, i // TOKENS]
        c.h_ref[0, i] = saved[_rows_of(i % TOKENS, saved)]
    groups = _groups_in(layout, layout.blocks - 1 - time)

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


# Tangent ------------------------------------------------------------------------------


def _tangent_kernel(
    x,
    t,
    d_y,
    d_last_state,
    *,
    h_ref,
    d_h_ref,
    wide,
    layout,
    delta_softplus,
    over_tokens,
):
    """Push the directions of a program together: they share the decays.

    h'[t] = A_bar[t] h'[t-1] + A_bar[t] h[t-1] (A delta'[t] + delta[t] A')
            + B[t] (delta u)'[t] + B'[t] delta[t] u[t]
    """
    directions = range(d_y.shape[0])
    tracks, parameters = _tracks(x, wide), _read_channels(x)
    t_tracks = [_tracks(t, wide["t"][j], (j, 0)) for j in directions]
    t_parameters = [_read_channels(t, (j, 0)) for j in directions]
    y_tracks = [Track(d_y.at[j, 0], wide["d_y"][j]) for j in directions]
    time = pl.program_id(3)
    _start(time, h_ref, x.initial_state)
    for j in directions:
        _start(time, d_h_ref.at[j], t.initial_state, (j, 0, 0))

    def token(group, token):
        now = group * TOKENS + token
        raw, u, z = (_read(tracks, k, group, token) for k in ("delta", "u", "z"))
        options = {
            "delta_bias": parameters.delta_bias,
            "delta_softplus": delta_softplus,
        }
        delta, slope = step_size(raw, **options), step_slope(raw, **options)
        delta_u = delta * u
        B, C = _scalars(x.B, layout, now), _scalars(x.C, layout, now)
        moves = []  # delta', u', z', (delta u)', each None where nothing moves
        for j in directions:
            d_raw, d_u, d_z = (
                _read(t_tracks[j], k, group, token) for k in ("delta", "u", "z")
            )
            d_delta = _product(slope, _add(d_raw, t_parameters[j].delta_bias))
            d_input = _add(_product(u, d_delta), _product(delta, d_u))
            moves.append((d_delta, d_u, d_z, d_input))
        s, d_s = [], [[] for _ in directions]
        for i in range(layout.padded_states):
            A_bar = _decay(x, delta, now, i)
            carried = A_bar * h_ref[i]
            h = carried + delta_u * B(i)
            h_ref[i] = h
            s.append(C(i) * h)
            for j, (d_delta, _, _, d_input) in enumerate(moves):
                d_h = A_bar * d_h_ref[j, i]
                if d_delta is not None:
                    d_h += carried * (LN_2 * x.A[0, i]) * d_delta
                if t.A is not None:
                    d_h += carried * delta * t.A[j, 0, i]
                if d_input is not None:
                    d_h += d_input * B(i)
                if t.B is not None:
                    d_h += delta_u * _scalars(t.B, layout, now, (j, 0, 0, 0, 0))(i)
                d_h_ref[j, i] = d_h
                d_s[j].append(C(i) * d_h)
                if t.C is not None:
                    d_s[j].append(_scalars(t.C, layout, now, (j, 0, 0, 0, 0))(i) * h)
        s = _sum(s)
        for j, (_, d_u, d_z, _) in enumerate(moves):
            # y = q silu(z), q = s + D u
            d_q = _add(_sum(d_s[j]), _product(parameters.D, d_u))
            d_q = _add(d_q, _product(t_parameters[j].D, u))
            if z is not None:
                d_q = d_q * silu(z)
                if d_z is not None:
                    _, slope_z = jax.jvp(silu, (z,), (d_z,))
                    d_q += finish(s, u, parameters.D) * slope_z
            y_tracks[j].write(group, token, d_q)

    def run_group(group, _):
        for track in (*tracks.values(), *(v for r in t_tracks for v in r.values())):
            track.open(group)
        over_tokens(partial(token, group))
        for track in y_tracks:
            track.close(group)

    lax.fori_loop(0, _groups_in(layout, time), run_group, None)

    @pl.when(time == layout.blocks - 1)
    def _():
        d_last_state[:, 0, 0] = d_h_ref[...]


def _read(tracks, name, group, token):
    return tracks[name].read(group, token) if name in tracks else None


def _add(x, y):
    """Add where None stands for zero."""
    if x is None or y is None:
        return y if x is None else x
    return x + y


def _product(x, y):
    """Multiply where None stands for zero."""
    return None if x is None or y is None else x * y


# The calls ----------------------------------------------------------------------------


def _check(inputs: ScanInputs):
    if inputs.u.dtype == jnp.float64:
        raise NotImplementedError(
            "pallas_tpu computes in float32 and cannot serve float64 operands. Give "
            "float32 or bfloat16, or implementation='xla'."
        )


def _make_layout(inputs, tiling: TpuTiling, *, chunks=1, is_reversed=False) -> Layout:
    batch, length, channels = inputs.u.shape
    groups, states = inputs.B.shape[2:]
    rows = tiling.rows
    if rows is None:
        rows = choose_rows(channels // groups, -(-states // TOKENS) * TOKENS)
    chunks = min(chunks, -(-length // CHUNK))
    return Layout(batch, length, channels, states, groups, rows, chunks, is_reversed)


def _place(layout: Layout, inputs: ScanInputs, pad_delta=0.0) -> ScanInputs:
    """Lay operands out, or tangents of them; segment_ids become the keep mask."""

    def single(x):
        return x.astype(jnp.float32)

    def over_time(x, value=0.0):
        return layout.over_time(x if x.dtype == jnp.bfloat16 else single(x), value)

    place = {
        **dict.fromkeys("uz", over_time),
        "delta": partial(over_time, value=pad_delta),
        "A": lambda x: layout.over_states(single(x)),
        **dict.fromkeys("BC", lambda x: layout.over_gates(single(x))),
        **dict.fromkeys(("D", "delta_bias"), lambda x: layout.over_channels(single(x))),
        "initial_state": lambda x: layout.over_states(single(x)),
        "segment_ids": lambda x: layout.over_keep(keep_mask(x)),
    }
    return some_inputs(
        **{k: place[k](x) for k, x in inputs._asdict().items() if x is not None}
    )


def _place_primals(layout: Layout, inputs: ScanInputs, delta_softplus) -> ScanInputs:
    """Lay the scan's own operands out, log2(e) in A; padding makes no step."""
    inputs = inputs._replace(A=inputs.A.astype(jnp.float32) * LOG2_E)
    return _place(layout, inputs, NO_STEP if delta_softplus else 0.0)


def _specs(layout: Layout, placed: ScanInputs, directions=0) -> ScanInputs:
    spec = {
        **dict.fromkeys(OVER_TIME, lambda: layout.time_spec(directions)),
        "A": lambda: layout.state_spec(directions, batched=False),
        **dict.fromkeys("BC", lambda: layout.gate_spec(directions)),
        **dict.fromkeys(("D", "delta_bias"), lambda: layout.channel_spec(directions)),
        "initial_state": lambda: layout.state_spec(directions),
        "segment_ids": layout.keep_spec,
    }
    return some_inputs(
        **{k: spec[k]() for k, x in placed._asdict().items() if x is not None}
    )


def _wide(layout: Layout, dtype):
    """Return scratch for eight tokens where the operand is in half precision."""
    if dtype == jnp.float32:
        return None
    return pltpu.VMEM((layout.rows * TOKENS, LANES), jnp.float32)


def _wide_inputs(layout, placed):
    return {
        k: _wide(layout, x.dtype)
        for k, x in placed._asdict().items()
        if k in OVER_TIME and x is not None
    }


def _state_scratch(layout: Layout, *lead):
    return pltpu.VMEM((*lead, layout.padded_states, layout.rows, LANES), jnp.float32)


def _unrolled(body, count=TOKENS):
    for token in range(count):
        body(token)


def _rolled(body, count=TOKENS):
    lax.fori_loop(0, count, lambda token, _: body(token), None)


def _call(kernel, name, layout: Layout, *, directions=1, **options):
    return pallas_call_anywhere(
        partial(kernel, layout=layout, over_tokens=_unrolled),
        interpreted=partial(kernel, layout=layout, over_tokens=_rolled),
        name=f"selective_scan_tpu_{name}",
        grid=(directions, layout.batch, layout.tiles, layout.blocks),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary"),
        ),
        **options,
    )


def _zeros_like_time(layout, dtype, *lead):
    """Return the shape of an array over time as the kernels write it."""
    rows = layout.tiles * layout.rows * TOKENS
    groups = -(-layout.length // TOKENS)
    dtype = dtype if dtype == jnp.bfloat16 else jnp.float32
    return jax.ShapeDtypeStruct((*lead, layout.batch, groups, rows, LANES), dtype)


def _state_shape(layout: Layout, *lead):
    shape = (layout.tiles, layout.padded_states, layout.rows, LANES)
    return jax.ShapeDtypeStruct((*lead, *shape), jnp.float32)


def scan(inputs, *, delta_softplus, save_states=False, tiling: TpuTiling):
    """Run the recurrence; see `contract.Implementation`."""
    _check(inputs)
    layout = _make_layout(inputs, tiling, chunks=tiling.chunks)
    placed = _place_primals(layout, inputs, delta_softplus)
    chunk_rows = layout.tiles * layout.rows * TOKENS
    chunk_shape = (layout.num_chunks, layout.padded_states // TOKENS, chunk_rows, LANES)
    y_shape = _zeros_like_time(layout, inputs.u.dtype)
    out_shape = ScanResult(
        y_shape,
        _state_shape(layout, layout.batch),
        jax.ShapeDtypeStruct((layout.batch, *chunk_shape), jnp.float32)
        if save_states
        else None,
    )
    out_specs = ScanResult(
        layout.time_spec(),
        layout.state_spec(),
        layout.chunk_spec() if save_states else None,
    )
    (out,) = _call(
        partial(_scan_kernel, delta_softplus=delta_softplus),
        "scan",
        layout,
        in_specs=(_specs(layout, placed),),
        out_specs=(out_specs,),
        out_shape=(out_shape,),
        scratch_shapes={
            "h_ref": _state_scratch(layout),
            "wide": {**_wide_inputs(layout, placed), "y": _wide(layout, y_shape.dtype)},
        },
    )(placed)
    chunk_states = layout.from_chunks(out.chunk_states) if save_states else None
    return ScanResult(
        layout.from_time(out.y).astype(inputs.u.dtype),
        layout.from_states(out.last_state),
        chunk_states,
    )


def tangent(inputs, tangents, *, delta_softplus, tiling: TpuTiling):
    """Push k directions through the scan; see `contract.Implementation`."""
    _check(inputs)
    total = next(x.shape[0] for x in tangents if x is not None)
    directions = min(tiling.directions, total)
    layout = _make_layout(inputs, tiling)
    placed = _place_primals(layout, inputs, delta_softplus)
    t = jax.vmap(partial(_place, layout))(tangents)
    d_y = _zeros_like_time(layout, inputs.u.dtype, total)
    (d_y, d_last_state) = _call(
        partial(_tangent_kernel, delta_softplus=delta_softplus),
        "tangent",
        layout,
        directions=-(-total // directions),
        in_specs=(_specs(layout, placed), _specs(layout, t, directions)),
        out_specs=(layout.time_spec(directions), layout.state_spec(directions)),
        out_shape=(d_y, _state_shape(layout, total, layout.batch)),
        scratch_shapes={
            "h_ref": _state_scratch(layout),
            "d_h_ref": _state_scratch(layout, directions),
            "wide": {
                **_wide_inputs(layout, placed),
                "t": [_wide_inputs(layout, t)] * directions,
                "d_y": [_wide(layout, d_y.dtype)] * directions,
            },
        },
    )(placed, t)
    return (
        layout.from_time(d_y).astype(inputs.u.dtype),
        layout.from_states(d_last_state),
    )


def cotangent(
    inputs,
    chunk_states,
    d_y,
    d_last_state,
    *,
    delta_softplus,
    wanted,
    tiling: TpuTiling,
):
    """Pull k cotangents back through the scan; see `contract.Implementation`."""
    _check(inputs)
    layout = _make_layout(inputs, tiling, is_reversed=True)
    placed = _place_primals(layout, inputs, delta_softplus)
    d_y = layout.over_time(
        d_y if d_y.dtype == jnp.bfloat16 else d_y.astype(jnp.float32)
    )
    k = d_y.shape[0]
    d_shapes, d_specs = _cotangent_outputs(layout, inputs, k)
    gates = CHUNK * layout.padded_states * 2
    tokens = (CHUNK, layout.rows, LANES)
    (d,) = _call(
        partial(_cotangent_kernel, delta_softplus=delta_softplus),
        "cotangent",
        layout,
        directions=k,
        in_specs=(
            _specs(layout, placed),
            layout.chunk_spec(),
            layout.time_spec(1),
            layout.state_spec(1),
        ),
        out_specs=(d_specs,),
        out_shape=(d_shapes,),
        scratch_shapes={
            "refs": {
                "h_ref": _state_scratch(layout, CHUNK + 1),
                "g_ref": _state_scratch(layout),
                "delta_ref": pltpu.VMEM(tokens, jnp.float32),
                "d_s_ref": pltpu.VMEM(tokens, jnp.float32),
            },
            "sums": {
                "products": pltpu.VMEM(
                    (TOGETHER, layout.padded_states * TOKENS, LANES), jnp.float32
                ),
                "B": pltpu.VMEM((gates, LANES), jnp.float32),
                "C": pltpu.VMEM((gates, LANES), jnp.float32),
            },
            "wide": {
                **_wide_inputs(layout, placed),
                "d_y": _wide(layout, d_y.dtype),
                **{
                    "d_" + name: _wide(layout, getattr(d_shapes, name).dtype)
                    for name in OVER_TIME
                    if getattr(d_shapes, name) is not None
                },
            },
        },
    )(placed, layout.over_chunks(chunk_states), d_y, layout.over_states(d_last_state))
    return _collect(layout, inputs, d, wanted)


def _cotangent_outputs(layout: Layout, inputs: ScanInputs, k: int):
    """Return shapes and specs of what the cotangent kernel writes."""
    lead, tiles = (k, layout.batch), layout.tiles
    gates = (tiles, layout.blocks, 2 * CHUNK * layout.padded_states // LANES, LANES)
    channels = (tiles, layout.rows, LANES)

    def single(shape):
        return jax.ShapeDtypeStruct((*lead, *shape), jnp.float32)

    outputs = {
        **{
            name: (
                _zeros_like_time(layout, getattr(inputs, name).dtype, k),
                layout.time_spec(1),
            )
            for name in OVER_TIME
            if getattr(inputs, name) is not None
        },
        "A": (_state_shape(layout, *lead), layout.state_spec(1)),
        **dict.fromkeys("BC", (single(gates), layout.gate_sum_spec())),
        **{
            name: (single(channels), layout.channel_spec(1, batched=True))
            for name in ("D", "delta_bias")
            if getattr(inputs, name) is not None
        },
        "initial_state": (_state_shape(layout, *lead), layout.state_spec(1)),
    }
    shapes, specs = (
        some_inputs(**{name: pair[i] for name, pair in outputs.items()})
        for i in range(2)
    )
    return shapes, specs


def _collect(layout: Layout, inputs, d: ScanInputs, wanted) -> ScanInputs:
    """Bring cotangents into the operands' own shapes; sum over the batch."""
    collect = {
        **dict.fromkeys(OVER_TIME, layout.from_time),
        "A": lambda x: layout.from_states(jnp.sum(x, axis=1)),
        **dict.fromkeys("BC", layout.from_gates),
        **dict.fromkeys(
            ("D", "delta_bias"),
            lambda x: layout.from_channels(jnp.sum(x, axis=1)),
        ),
        "initial_state": layout.from_states,
    }
    return some_inputs(
        **{
            name: collect[name](getattr(d, name)).astype(getattr(inputs, name).dtype)
            for name in wanted
        }
    )


def pallas_tpu(tiling: TpuTiling | None = None) -> Implementation:
    """Return the TPU kernels as an implementation, with tiles of a given size."""
    maps = (scan, tangent, cotangent)
    return Implementation(*(partial(f, tiling=tiling or TpuTiling()) for f in maps))
