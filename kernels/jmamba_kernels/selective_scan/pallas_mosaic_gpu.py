"""The selective scan on Hopper and newer, by Pallas Mosaic GPU kernels.

A program is one warpgroup. Its tiles of states are (n, d) arrays, d channels of the
block, in a layout of their own: a warp holds c channels, q = WARP_SIZE / c lanes share
a channel's n states, p = n / q of them in each. Values for each channel, and gates, are
the same layout with one axis removed, so that each thread reads what it multiplies.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jmamba_kernels.interpretation import run_anywhere
from jmamba_kernels.selective_scan.contract import Implementation
from jmamba_kernels.selective_scan.gpu.blocks import WARP_SIZE, Blocks, Shape
from jmamba_kernels.selective_scan.gpu.launches import Backend
from jmamba_kernels.selective_scan.gpu.maps import gpu_implementation
from jmamba_kernels.selective_scan.gpu.program import Program
from jmamba_kernels.selective_scan.tilings import MosaicGpuTiling

WARPS = 4
"""Warps of a warpgroup."""


def layout(k: Blocks):
    """Return how a tile (n, d) lies in the threads of a warpgroup."""
    q = k.n // k.states_per_lane
    c = WARP_SIZE // q
    # axes after tiling: ..., q, WARPS, c, 1
    tiling = plgpu.Tiling(((q, WARPS * c), (c,), (1,)))
    lanes = (-4, -2) if q > 1 else (-2,)
    return plgpu.Layout.TILED(tiling, warp_dims=(-3,), lane_dims=lanes, vector_dim=-1)


def _load(ref, layout):
    """Read a ref, in shared or global memory, into a layout."""
    if jax.__version_info__ >= (0, 12):
        return plgpu.load(ref, layout=layout, optimized=False)  # pyright: ignore
    return plgpu.load(ref, (), layout=layout, optimized=False)  # pyright: ignore


def _store(ref, value) -> None:
    """Write an array; 16-bit values go out two bytes a thread."""
    if jax.__version_info__ >= (0, 12):
        plgpu.store(ref, value, optimized=False)  # pyright: ignore
    else:
        ref[...] = value


@dataclasses.dataclass(frozen=True)
class MosaicGpuProgram(Program):
    """A program on tiles (n, d) of its block of channels."""

    @property
    def shape(self) -> tuple[int, int]:
        """Return (n, d)."""
        return self.k.n, self.k.channels_per_block

    @property
    def channels(self):
        """The program's channels."""
        size = self.k.channels_per_block
        return pl.ds(self.block * size, size)

    def spread(self, value, axis: int):
        """Repeat a value for each state (axis 0) or channel (axis 1) over the other."""
        tile = lax.broadcast_in_dim(value, self.shape, (axis,))
        return plgpu.layout_cast(tile, layout(self.k))

    def zeros(self):
        """See `Program`."""
        n, d = self.shape
        by_channel = plgpu.layout_cast(jnp.zeros(d), layout(self.k).reduce(0))
        return by_channel, plgpu.layout_cast(jnp.zeros((n, d)), layout(self.k))

    def read_token(self, ref, t, *lead):
        """See `Program`."""
        return self.read_by_channel(ref.at[(*lead, self.row, self.clip(t))])

    def read_by_channel(self, ref):
        """Read the program's part of (d,)."""
        return _load(ref.at[self.channels], layout(self.k).reduce(0))

    def read_channels(self, ref, *lead):
        """See `Program`."""
        ref = ref.at[lead] if lead else ref
        return self.read_by_channel(ref).astype(jnp.float32)

    def read_gate(self, ref, t, *lead):
        """See `Program`."""
        ref = ref.at[(*lead, self.row, self.clip(t), self.group)]
        return self.spread(_load(ref, layout(self.k).reduce(1)).astype(jnp.float32), 0)

    def read_states(self, ref, *lead):
        """See `Program`."""
        return _load(ref.at[(*lead, slice(None), self.channels)], layout(self.k))

    def write_states(self, ref, value, *lead):
        """See `Program`."""
        _store(ref.at[(*lead, slice(None), self.channels)], value)

    def write_token(self, ref, t, value, *lead):
        """See `Program`."""
        index = (*lead, self.row, self.clip(t), self.channels)
        self.write(ref, index, t, value.astype(ref.dtype))

    def write_channels(self, ref, value, *lead):
        """See `Program`."""
        _store(ref.at[(*lead, self.channels)], value)

    def write_gate(self, ref, t, value, *lead):
        """See `Program`."""
        self.write(ref, (self.block, *lead, self.row, self.clip(t)), t, value)

    def write(self, ref, index, t, value):
        """Write what belongs to a token unless it is past the end."""
        if not self.k.ragged:
            _store(ref.at[index], value)
            return

        @pl.when(t < self.k.length)
        def _():
            _store(ref.at[index], value)

    def over_states(self, value):
        """See `Program`."""
        return self.spread(value, 1)

    def sum_states(self, tile):
        """See `Program`."""
        return jnp.sum(tile, axis=0)

    def sum_channels(self, tile):
        """See `Program`."""
        return jnp.sum(tile, axis=1)

    def multiply_add(self, a, b, c):
        """See `Program`; the compiler contracts it."""
        return a * b + c

    def exp2(self, tile):
        """See `Program`; one instruction under `approx_math`."""
        return jnp.exp2(tile)


# Launches -----------------------------------------------------------------------------


def _launch(kernel, name, k: Blocks, out_shape, *, rows=1, delta_softplus, **static):
    """Return a kernel as a function of its operands; `rows` programs a batch row."""
    outs, out_tree = jax.tree.flatten(out_shape)

    def run(*operands):
        flat, tree = jax.tree.flatten(operands)

        def body(*refs):
            block, second, segment = map(lax.axis_index, ("block", "row", "segment"))
            first = lax.div(second, k.batch) * static.get("together", 1)
            at = MosaicGpuProgram(
                block, lax.rem(second, k.batch), segment, first, k, delta_softplus, True
            )
            written = jax.tree.unflatten(out_tree, refs[len(flat) :])
            written = [written] if isinstance(written, dict) else written
            kernel(at, *jax.tree.unflatten(tree, refs[: len(flat)]), *written, **static)

        def call(**how):
            return plgpu.kernel(
                body,
                out_type=outs,
                grid=(k.blocks, k.batch * rows, k.segments),
                grid_names=("block", "row", "segment"),
                # only sums over channels use shared memory, between barriers of theirs
                compiler_params=plgpu.CompilerParams(
                    approx_math=True,
                    unsafe_no_auto_barriers=True,
                    lowering_semantics=plgpu.LoweringSemantics.Lane,
                ),
                kernel_name=f"selective_scan_mosaic_gpu_{name}",
                **how,
            )

        written = with_interpreter(call, outs)(*flat)
        return jax.tree.unflatten(out_tree, written)

    return run


def with_interpreter(call, outs):
    """Return the kernel, interpreted on a CPU where jax can (0.12 and newer).

    The interpreter orders its side effects, which neither a branch nor a primitive's
    lowering may have: so it runs as a program of its own, called back from this one.
    """
    params = getattr(plgpu, "InterpretGPUParams", None)
    if params is None:
        return call()
    interpreted = jax.jit(call(interpret=params()))

    def call_back(*operands):
        return jax.pure_callback(interpreted, outs, *operands)

    return run_anywhere(call(), call_back)


_BACKEND = Backend(
    name="pallas_mosaic_gpu",
    scan_shape=Shape(states_per_lane=16, num_warps=WARPS, tokens=2),
    tangent_shape=Shape(states_per_lane=8, num_warps=WARPS, tokens=1),
    cotangent_shape=Shape(states_per_lane=4, num_warps=WARPS, tokens=4),
    view=lambda kind, shape, k: shape,
    launch=_launch,
)


def pallas_mosaic_gpu(tiling: MosaicGpuTiling | None = None) -> Implementation:
    """Return the Mosaic GPU kernels as an implementation, cut as given or not."""
    return gpu_implementation(_BACKEND, tiling)
