"""The selective scan on Ampere and Ada, by Pallas Triton kernels.

`triton_kernels` holds what runs on the chip; here its operands are viewed as the tiles
of `triton_program` and the kernels are launched.
"""

from functools import partial

import jax
from jax.experimental.pallas import triton as plgpu

from jmamba_kernels import triton_kernels
from jmamba_kernels.contract import Implementation
from jmamba_kernels.gpu_blocks import Blocks, GpuTiling, Operands, Shape
from jmamba_kernels.gpu_maps import (
    Kernels,
    Pulled,
    gpu_implementation,
    run_over_directions,
    struct,
)
from jmamba_kernels.interpretation import pallas_call_anywhere
from jmamba_kernels.triton_program import tile


class TritonTiling(GpuTiling):
    """How the Triton kernels are cut; see `GpuTiling`."""


MOST_DIRECTIONS = 4
"""Directions that one program takes, sharing the decays and the states."""


def launch(kernel, name, k: Blocks, out_shape, *, rows=1, **static):
    """Return a kernel as a function of its operands; `rows` programs a batch row."""
    return pallas_call_anywhere(
        partial(kernel, k=k, native=True, **static),
        interpreted=partial(kernel, k=k, native=False, **static),
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


def run_scan(x: Operands, starts, k: Blocks, save_states: bool, delta_softplus: bool):
    """See `gpu_maps.Kernels`."""
    states = split_states(starts, k).shape[2:]
    v = split(x, k)
    out_shape = [struct(v.u.shape, x.u.dtype), struct((k.batch, k.segments, *states))]
    if save_states:
        out_shape.append(struct((k.batch, k.chunks, *states)))
    run = launch(
        triton_kernels.scan_kernel, "scan", k, out_shape, delta_softplus=delta_softplus
    )
    y, ends, *saved = run(v, split_states(starts, k))
    shape = (k.n, k.padded)
    saved = saved[0].reshape(k.batch, k.chunks, *shape) if save_states else None
    return y.reshape(x.u.shape), ends.reshape(k.batch, k.segments, *shape), saved


def run_segment_ends(x: Operands, k: Blocks, delta_softplus: bool):
    """See `gpu_maps.Kernels`."""
    shape = (k.batch, k.segments, k.n, k.padded)
    out = struct((*shape[:2], *split_states(x.A, k).shape))
    run = launch(
        triton_kernels.segment_ends_kernel,
        "segment_ends",
        k,
        [out] * 2,
        delta_softplus=delta_softplus,
    )
    return [v.reshape(shape) for v in run(split(x, k))]


def run_segment_starts(x: Operands, d_y, k: Blocks, delta_softplus: bool):
    """See `gpu_maps.Kernels`."""
    directions, shape = d_y.shape[0], (k.batch, k.segments, k.n, k.padded)
    together = run_over_directions(directions, MOST_DIRECTIONS)
    decay = struct((*shape[:2], *split_states(x.A, k).shape))
    run = launch(
        triton_kernels.segment_starts_kernel, "segment_starts", k,
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
        triton_kernels.tangent_kernel, "tangent", k, [y, struct(states.shape)],
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
        triton_kernels.cotangent_kernel, "cotangent", k, out_shape,
        rows=directions // together, together=together, delta_softplus=delta_softplus,
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


def pallas_triton(tiling: TritonTiling | None = None) -> Implementation:
    """Return the Triton kernels as an implementation, cut as given or by heuristic."""
    return gpu_implementation(KERNELS, tiling)
