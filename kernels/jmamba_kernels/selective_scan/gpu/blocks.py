"""How the GPU kernels cut the scan into programs, and pad it to whole tiles.

A program owns one batch row, one block of channels and one segment of the sequence,
and walks through its tokens with the states in registers. Of the n states of a
channel a lane holds p and q lanes share them: n = p q. Sums over states then cost
log2(q) shuffles, sums over the channels of a warp log2(WARP_SIZE / q).
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jmamba_kernels.selective_scan.contract import (
    CHUNK,
    ScanInputs,
    keep_mask,
    num_chunks,
)
from jmamba_kernels.selective_scan.powers import LOG2_E
from jmamba_kernels.selective_scan.tilings import GpuTiling

WARP_SIZE = 32
"""Threads of a warp."""

FEWEST_STATES = 4
"""n is padded to a power of two, and to this at least."""


class Shape(NamedTuple):
    """What a map likes: the first three fields of `GpuTiling`."""

    states_per_lane: int
    num_warps: int
    tokens: int


PROCESSORS = 108
"""Multiprocessors that a launch should fill: those of an A100 (an H100 has 132)."""

SCHEDULERS = 4
"""Warps that one multiprocessor issues from at a time."""


def choose_tiling(
    shape: Shape, batch: int, length: int, channels: int, n: int
) -> GpuTiling:
    """Return the default GpuTiling of a map.

    Exponentials bind first, and each scheduler has its own unit for them, so a launch
    wants a warp for each of PROCESSORS x SCHEDULERS. Splitting the sequence costs a
    second pass over its operands: it is done where less than half of the schedulers
    have a warp, into as many segments of four chunks or more as give each two.
    """
    p = min(shape.states_per_lane, n)
    warps = batch * math.ceil(channels * n / (p * WARP_SIZE))
    wanted = PROCESSORS * SCHEDULERS
    segments = 1 if 2 * warps >= wanted else math.ceil(2 * wanted / warps)
    most = max(1, num_chunks(length) // 4)
    return GpuTiling(p, shape.num_warps, shape.tokens, min(segments, most))


class Blocks(NamedTuple):
    """Sizes of a launch."""

    batch: int
    length: int
    channels: int
    n: int
    groups: int
    blocks_per_group: int
    channels_per_block: int
    states_per_lane: int
    num_warps: int
    tokens: int
    segments: int
    chunks_per_segment: int

    @property
    def blocks(self) -> int:
        """Channel blocks of all groups."""
        return self.groups * self.blocks_per_group

    @property
    def padded(self) -> int:
        """Channels after padding every group to whole blocks."""
        return self.blocks * self.channels_per_block

    @property
    def chunks(self) -> int:
        """Chunks of the sequence."""
        return num_chunks(self.length)

    @property
    def ragged(self) -> bool:
        """Whether the last chunk is not full."""
        return self.length % CHUNK != 0


def cut(inputs: ScanInputs, tiling: GpuTiling | None, shape: Shape) -> Blocks:
    """Return the sizes of a launch, by the heuristic unless a tiling is given."""
    (batch, length, channels), groups = inputs.u.shape, inputs.B.shape[2]
    n = max(FEWEST_STATES, 1 << (inputs.A.shape[1] - 1).bit_length())
    if tiling is None:
        tiling = choose_tiling(shape, batch, length, channels, n)
    p = min(tiling.states_per_lane, n)
    per_block = tiling.num_warps * WARP_SIZE * p // n
    chunks = num_chunks(length)
    per_segment = math.ceil(chunks / min(tiling.segments, chunks))
    return Blocks(
        batch=batch,
        length=length,
        channels=channels,
        n=n,
        groups=groups,
        blocks_per_group=math.ceil(channels / groups / per_block),
        channels_per_block=per_block,
        states_per_lane=p,
        num_warps=tiling.num_warps,
        tokens=tiling.tokens,
        segments=math.ceil(chunks / per_segment),
        chunks_per_segment=per_segment,
    )


# Padding ------------------------------------------------------------------------------


def pad_axis(x: Array, axis: int, size: int) -> Array:
    """Pad an axis with zeros at its end."""
    if x.shape[axis] == size:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, size - x.shape[axis])
    return jnp.pad(x, widths)


def pad_channels(x: Float[Array, "... d"], k: Blocks) -> Float[Array, "... padded"]:
    """Pad the channels of each group to whole blocks."""
    if k.padded == k.channels:
        return x
    x = x.reshape(*x.shape[:-1], k.groups, k.channels // k.groups)
    x = pad_axis(x, x.ndim - 1, k.padded // k.groups)
    return x.reshape(*x.shape[:-2], k.padded)


def cut_channels(x: Float[Array, "... padded"], k: Blocks) -> Float[Array, "... d"]:
    """Undo `pad_channels`."""
    if k.padded == k.channels:
        return x
    x = x.reshape(*x.shape[:-1], k.groups, k.padded // k.groups)
    x = x[..., : k.channels // k.groups]
    return x.reshape(*x.shape[:-2], k.channels)


def pad_states(x: Float[Array, "... n d"], k: Blocks) -> Float[Array, "... N padded"]:
    """Pad states and channels."""
    return pad_channels(pad_axis(x, x.ndim - 2, k.n), k)


def cut_states(x: Float[Array, "... N padded"], k: Blocks, n: int) -> Array:
    """Undo `pad_states`."""
    return cut_channels(x, k)[..., :n, :]


class Operands(NamedTuple):
    """Operands of a kernel, padded; absent ones are None. N is n, d is padded.

    `A` is A log2(e), so that exp(delta A) is a power of two. Padded states have zero
    gates, hence stay zero; padded channels compute what nobody reads. Tangents travel
    in it too, with a leading axis k, and any of them may be absent.
    """

    u: Float[Array, "b l d"]
    delta: Float[Array, "b l d"]
    A: Float[Array, "N d"]
    B: Float[Array, "b l g N"]
    C: Float[Array, "b l g N"]
    D: Float[Array, "d"] | None = None
    z: Float[Array, "b l d"] | None = None
    delta_bias: Float[Array, "d"] | None = None
    keep: Float[Array, "b l"] | None = None


def pad_operands(inputs: ScanInputs, k: Blocks) -> Operands:
    """Pad what the kernels read; where sizes fit nothing is copied."""
    keep = None
    if inputs.segment_ids is not None:
        keep = keep_mask(inputs.segment_ids).astype(jnp.float32)
    x = _pad_fields(inputs, k)
    return x._replace(A=x.A * jnp.float32(LOG2_E), keep=keep)


def pad_tangents(tangents: ScanInputs, k: Blocks) -> Operands:
    """Pad tangents, which have a leading axis k; `A` is the tangent of A itself."""
    return _pad_fields(tangents, k)


def _pad_fields(inputs: ScanInputs, k: Blocks) -> Operands:
    parts = {}
    for name in ("u", "delta", "D", "z", "delta_bias"):
        if (value := getattr(inputs, name)) is not None:
            parts[name] = pad_channels(value, k)
    for name in ("B", "C"):
        if (value := getattr(inputs, name)) is not None:
            parts[name] = pad_axis(value, value.ndim - 1, k.n)
    if inputs.A is not None:
        rates = jnp.swapaxes(inputs.A.astype(jnp.float32), -1, -2)
        parts["A"] = pad_states(rates, k)
    nothing = dict.fromkeys(Operands._fields)
    return Operands(**nothing | parts)  # pyright: ignore[reportArgumentType]
