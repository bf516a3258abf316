"""The selective scan for TPU: three Mosaic kernels.

    h[t] = exp(delta[t] A) keep[t] h[t-1] + delta[t] B[t] u[t]
    y[t] = (C[t] . h[t] + D u[t]) silu(z[t])

A program owns a tile of channels and walks through time; the grid's last axis carries
the state in VMEM scratch from block to block. `tpu.layout` says how operands lie. The
eight tokens of a memory tile are unrolled, and so are the states: every token is
straight-line vector code. log2(e) is folded into A, the chip's exponential being 2^x.

References:
  Gu & Dao, "Mamba", arXiv 2312.00752, section 3.3 (recomputation) and algorithm 2.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import tpu as pltpu

from jmamba_kernels.interpretation import pallas_call_anywhere
from jmamba_kernels.selective_scan.contract import (
    CHUNK,
    Implementation,
    ScanInputs,
    ScanResult,
    keep_mask,
    some_inputs,
)
from jmamba_kernels.selective_scan.powers import LOG2_E
from jmamba_kernels.selective_scan.tilings import TpuTiling
from jmamba_kernels.selective_scan.tpu.blocks import OVER_TIME
from jmamba_kernels.selective_scan.tpu.cotangent import TOGETHER, cotangent_kernel
from jmamba_kernels.selective_scan.tpu.layout import LANES, TOKENS, Layout, choose_rows
from jmamba_kernels.selective_scan.tpu.scan import scan_kernel
from jmamba_kernels.selective_scan.tpu.tangent import tangent_kernel

NO_STEP = -1e4
"""A delta before softplus that is zero after it, whatever the bias."""


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


def _place(layout: Layout, inputs: ScanInputs) -> ScanInputs:
    """Lay operands out, or tangents of them; segment_ids become the keep mask."""

    def single(x):
        return x.astype(jnp.float32)

    def over_time(x):
        return layout.over_time(x if x.dtype == jnp.bfloat16 else single(x))

    place = {
        **dict.fromkeys(OVER_TIME, over_time),
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
    """Lay the scan's own operands out, log2(e) in A; added tokens make no step."""
    A = inputs.A.astype(jnp.float32) * LOG2_E
    delta, bias, added = inputs.delta, inputs.delta_bias, -layout.length % TOKENS
    if added and (delta_softplus or bias is not None):
        delta = delta.astype(jnp.float32)
        still = jnp.float32(NO_STEP)
        if bias is not None and not delta_softplus:
            still = -bias.astype(jnp.float32)
        still = jnp.broadcast_to(still, (delta.shape[0], added, delta.shape[2]))
        delta = jnp.concatenate([delta, still], axis=1)
    return _place(layout, inputs._replace(A=A, delta=delta))


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


def _scan(inputs, *, delta_softplus, save_states=False, tiling: TpuTiling):
    """Run the recurrence; see `contract.Implementation`."""
    _check(inputs)
    layout = _make_layout(inputs, tiling, chunks=tiling.chunks)
    placed = _place_primals(layout, inputs, delta_softplus)
    chunk_rows = layout.tiles * layout.rows * TOKENS
    chunk_shape = (layout.num_chunks, layout.padded_states // TOKENS, chunk_rows, LANES)
    y_shape = _zeros_like_time(layout, inputs.u.dtype)
    out_shape = ScanResult._make(
        [
            y_shape,
            _state_shape(layout, layout.batch),
            jax.ShapeDtypeStruct((layout.batch, *chunk_shape), jnp.float32)
            if save_states
            else None,
        ]
    )
    out_specs = ScanResult._make(
        [
            layout.time_spec(),
            layout.state_spec(),
            layout.chunk_spec() if save_states else None,
        ]
    )
    (out,) = _call(
        partial(scan_kernel, delta_softplus=delta_softplus),
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


def _tangent(inputs, tangents, *, delta_softplus, tiling: TpuTiling):
    """Push k directions through the scan; see `contract.Implementation`."""
    _check(inputs)
    total = next(x.shape[0] for x in tangents if x is not None)
    directions = min(tiling.directions, total)
    layout = _make_layout(inputs, tiling)
    placed = _place_primals(layout, inputs, delta_softplus)
    t = jax.vmap(partial(_place, layout))(tangents)
    d_y = _zeros_like_time(layout, inputs.u.dtype, total)
    (d_y, d_last_state) = _call(
        partial(tangent_kernel, delta_softplus=delta_softplus),
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


def _cotangent(
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
        partial(cotangent_kernel, delta_softplus=delta_softplus),
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
    tiling = tiling or TpuTiling()
    return Implementation(
        partial(_scan, tiling=tiling),
        partial(_tangent, tiling=tiling),
        partial(_cotangent, tiling=tiling),
    )
