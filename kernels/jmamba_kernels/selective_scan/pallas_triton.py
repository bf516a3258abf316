"""The selective scan on Ampere and Ada, by Pallas Triton kernels.

Tiles of states have the axes (p, w, q, c): p states in a lane and q lanes over them,
c channels by w warps. Triton deals lanes out from the last axis on, then warps, so
a warp is q x c and every operand of a token is read where it is used: nothing goes
through shared memory but the sums over channels that cross warps.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jmamba_kernels.interpretation import pallas_call_anywhere
from jmamba_kernels.selective_scan.contract import Implementation
from jmamba_kernels.selective_scan.gpu.blocks import WARP_SIZE, Blocks, Shape
from jmamba_kernels.selective_scan.gpu.launches import Backend, struct
from jmamba_kernels.selective_scan.gpu.maps import gpu_implementation
from jmamba_kernels.selective_scan.gpu.program import Program
from jmamba_kernels.selective_scan.tilings import TritonTiling


def tile(k: Blocks) -> tuple[int, int, int, int]:
    """Return the sizes of (p, w, q, c)."""
    lanes = k.n // k.states_per_lane
    return k.states_per_lane, k.num_warps, lanes, WARP_SIZE // lanes


@dataclasses.dataclass(frozen=True)
class TritonProgram(Program):
    """A program on tiles (p, w, q, c); values for each channel are (w, c)."""

    @property
    def x(self):
        """The program's part of the axis x, of which it owns w."""
        return pl.ds(self.block * self.k.num_warps, self.k.num_warps)

    def zeros(self):
        """See `Program`."""
        p, w, q, c = tile(self.k)
        return jnp.zeros((w, c), jnp.float32), jnp.zeros((p, w, q, c), jnp.float32)

    def read_token(self, ref, t, *lead):
        """See `Program`."""
        return ref[(*lead, self.row, self.clip(t), self.x)]

    def read_channels(self, ref, *lead):
        """See `Program`."""
        return ref[(*lead, self.x)].astype(jnp.float32)

    def read_gate(self, ref, t, *lead):
        """Return (p, 1, q, 1)."""
        gate = ref[(*lead, self.row, self.clip(t), self.group)]
        return gate.astype(jnp.float32)[:, None, :, None]

    def state_index(self):
        """Return the indices of a tile of states into (p, q, x, c).

        Triton would give a thread four neighbouring channels to load at once, and
        then keep the states in that layout; the hint that nothing is contiguous
        leaves them one channel a thread.
        """
        p, w, q, c = (
            plgpu.max_contiguous(jnp.arange(size), [1]) for size in tile(self.k)
        )
        w += self.block * self.k.num_warps
        return (
            p[:, None, None, None],
            q[None, None, :, None],
            w[None, :, None, None],
            c[None, None, None, :],
        )

    def read_states(self, ref, *lead):
        """See `Program`."""
        return ref[(*lead, *self.state_index())]

    def write_states(self, ref, value, *lead):
        """See `Program`."""
        ref[(*lead, *self.state_index())] = value

    def write_token(self, ref, t, value, *lead):
        """Let the q lanes that share a value all write it.

        As (w, q, c) it lies in the threads as it was computed, while (w, c) alone
        would be moved through shared memory first.
        """
        shape = tile(self.k)[1:]
        x = self.block * self.k.num_warps + jnp.arange(shape[0])
        x = jnp.broadcast_to(x[:, None, None], shape)
        c = jnp.broadcast_to(jnp.arange(shape[2])[None, None], shape)
        value = jnp.broadcast_to(value[:, None], shape)
        self.write(ref.at[(*lead, self.row, self.clip(t), x, c)], t, value)

    def write_channels(self, ref, value, *lead):
        """See `Program`."""
        ref[(*lead, self.x)] = value

    def write_gate(self, ref, t, value, *lead):
        """Write (p, q)."""
        self.write(ref.at[(self.block, *lead, self.row, self.clip(t))], t, value)

    def write(self, view, t, value):
        """Write what belongs to a token unless it is past the end."""
        mask = jnp.full(value.shape, t < self.k.length) if self.k.ragged else None
        plgpu.store(view, value.astype(view.dtype), mask=mask)

    def over_states(self, value):
        """See `Program`."""
        return value[None, :, None, :]

    def sum_states(self, tile):
        """Sum in a lane first, then across lanes."""
        return jnp.sum(jnp.sum(tile, axis=0), axis=1)

    def sum_channels(self, tile):
        """Return (p, q)."""
        return jnp.sum(jnp.sum(tile, axis=3), axis=1)

    # Triton compiles a b + c to two instructions, and exp2 to four that keep denormals.

    def multiply_add(self, a, b, c):
        """Multiply and add in one instruction, with one rounding."""
        if not self.native:
            return a * b + c
        shape = jnp.broadcast_shapes(a.shape, b.shape, c.shape)
        operands = [jnp.broadcast_to(v, shape) for v in (a, b, c)]
        return instruct("fma.rn.f32 $0, $1, $2, $3;", "=f,f,f,f", operands)

    def exp2(self, tile):
        """Use one instruction; results below 2^-126 become zero."""
        if not self.native:
            return jnp.exp2(tile)
        return instruct("ex2.approx.ftz.f32 $0, $1;", "=f,f", [tile])


def instruct(asm: str, constraints: str, operands):
    """Return what an instruction makes of each element."""
    (out,) = plgpu.elementwise_inline_asm(
        asm, args=operands, constraints=constraints, pack=1,
        result_shape_dtypes=[struct(operands[0].shape)],
    )  # fmt: skip
    return out


# Launches -----------------------------------------------------------------------------


def _launch(kernel, name, k: Blocks, out_shape, *, rows=1, delta_softplus, **static):
    """Return a kernel as a function of its operands; `rows` programs a batch row."""

    def body(native, *refs):
        block, second, segment = (pl.program_id(axis) for axis in range(3))
        which, row = jax.lax.div(second, k.batch), jax.lax.rem(second, k.batch)
        first = which * static.get("together", 1)
        at = TritonProgram(block, row, segment, first, k, delta_softplus, native)
        kernel(at, *refs, **static)

    return pallas_call_anywhere(
        partial(body, True),
        interpreted=partial(body, False),
        name=f"selective_scan_triton_{name}",
        grid=(k.blocks, k.batch * rows, k.segments),
        out_shape=out_shape,
        compiler_params=plgpu.CompilerParams(num_warps=k.num_warps, num_stages=1),
    )


def _view(kind: str, shape: tuple[int, ...], k: Blocks) -> tuple[int, ...]:
    """Split d into (x, c), w of whose x are a program's, and n into (p, q)."""
    p, _, q, c = tile(k)
    match kind:
        case "channels":
            return (*shape[:-1], shape[-1] // c, c)
        case "gates":
            return (*shape[:-1], p, q)
        case "states":
            return (*shape[:-2], p, q, shape[-1] // c, c)
    return shape


_BACKEND = Backend(
    name="pallas_triton",
    scan_shape=Shape(states_per_lane=16, num_warps=1, tokens=4),
    tangent_shape=Shape(states_per_lane=8, num_warps=1, tokens=1),
    cotangent_shape=Shape(states_per_lane=4, num_warps=4, tokens=4),
    view=_view,
    launch=_launch,
)


def pallas_triton(tiling: TritonTiling | None = None) -> Implementation:
    """Return the Triton kernels as an implementation, cut as given or by heuristic."""
    return gpu_implementation(_BACKEND, tiling)
