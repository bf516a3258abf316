"""What the GPU kernels share: tiles, padding, and the combination of segments.

A program owns one batch row, one block of channels and one segment of the sequence,
and walks through its tokens with the states in registers. A tile of states has four
axes (p, w, q, c): n = p q states by w c channels, where a warp's 32 lanes are q x c,
w counts the warps and p states stay in a lane. Sums over states then cost log2(q)
shuffles, and sums over channels log2(c).
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jmamba_kernels.contract import CHUNK, ScanInputs, keep_mask, num_chunks
from jmamba_kernels.elementwise import LOG2_E

LANES = 32
"""Threads of a warp."""


@dataclasses.dataclass(frozen=True)
class GpuTiling:
    """How one map of the scan is cut into programs.

    Attributes:
      states_per_lane: p, states of one channel that a thread holds.
      num_warps: w, warps of a program; a program has w LANES p / n channels.
      tokens: tokens that are read together before any of them is used, and, in the
        cotangent, whose states are held at once. Divides `CHUNK`.
      segments: parts of the sequence that run in parallel (at most one per chunk).
    """

    states_per_lane: int
    num_warps: int
    tokens: int
    segments: int


class Map(NamedTuple):
    """What the heuristic knows of one of the three maps.

    A thread of the cotangent holds p registers for each of: A, g, dA, the states
    where the chunk's CHUNK / tokens blocks start, and A_bar and h of each token; with
    p = 4 and tokens = 4 that is 4 (3 + 7 + 8) = 72 of the 255 it may have. The scan
    holds A, h and the gates of a few tokens: 16 (2 + 4) = 96 with p = 16.
    """

    states_per_lane: int
    num_warps: int
    tokens: int


SCAN = Map(states_per_lane=16, num_warps=1, tokens=4)
TANGENT = Map(states_per_lane=8, num_warps=1, tokens=2)
COTANGENT = Map(states_per_lane=4, num_warps=4, tokens=4)

PROCESSORS = 108
"""Streaming multiprocessors that a launch should fill: an A100 (an H100 has 132)."""

SCHEDULERS = 4
"""Warps that one multiprocessor issues from at a time."""


def choose_tiling(kind: Map, batch: int, length: int, channels: int, n: int):
    """Return the default GpuTiling of a map.

    Exponentials bind first and each scheduler has its own unit, so a launch wants one
    warp for each of PROCESSORS x SCHEDULERS. Splitting the sequence costs a second
    pass over its operands, so it is done only where less than half of them have one,
    and then into as many segments as give each of them two.
    """
    p = min(kind.states_per_lane, n)
    warps = batch * math.ceil(channels * n / (p * LANES))
    wanted = PROCESSORS * SCHEDULERS
    segments = 1 if 2 * warps >= wanted else math.ceil(2 * wanted / warps)
    return GpuTiling(
        p, kind.num_warps, kind.tokens, max(1, min(segments, num_chunks(length) // 4))
    )


class Blocks(NamedTuple):
    """Sizes of a launch: the tile, and how many programs there are."""

    batch: int
    length: int
    channels: int
    n: int
    groups: int
    tile: tuple[int, int, int, int]
    tokens: int
    chunks_per_segment: int
    segments: int
    blocks_per_group: int

    @property
    def channels_per_block(self) -> int:
        """Channels of a program: w c."""
        return self.tile[1] * self.tile[3]

    @property
    def blocks(self) -> int:
        """Channel blocks of all groups."""
        return self.groups * self.blocks_per_group

    @property
    def padded(self) -> int:
        """Channels after padding every group to whole blocks."""
        return self.blocks * self.channels_per_block

    @property
    def ragged(self) -> bool:
        """Whether the last chunk is not full."""
        return self.length % CHUNK != 0


def cut(inputs: ScanInputs, tiling: GpuTiling | None, kind: Map) -> Blocks:
    """Return the sizes of a launch."""
    (batch, length, channels), groups = inputs.u.shape, inputs.B.shape[2]
    n = max(4, 1 << (inputs.A.shape[1] - 1).bit_length())
    tiling = tiling or choose_tiling(kind, batch, length, channels, n)
    p = min(tiling.states_per_lane, n)
    q = n // p
    tile = (p, tiling.num_warps, q, LANES // q)
    chunks = num_chunks(length)
    per_segment = math.ceil(chunks / min(tiling.segments, chunks))
    return Blocks(
        batch, length, channels, n, groups, tile, tiling.tokens,
        per_segment, math.ceil(chunks / per_segment),
        math.ceil(channels / groups / (tile[1] * tile[3])),
    )  # fmt: skip


# Laying operands out ------------------------------------------------------------------


def pad_axis(x: Array, axis: int, size: int) -> Array:
    """Pad an axis with zeros at its end."""
    if x.shape[axis] == size:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, size - x.shape[axis])
    return jnp.pad(x, widths)


def lay_channels(x: Float[Array, "... d"], k: Blocks) -> Float[Array, "... x c"]:
    """Pad each group to whole blocks and split channels into (x, c); x runs over w."""
    if k.padded != k.channels:
        x = x.reshape(*x.shape[:-1], k.groups, k.channels // k.groups)
        x = pad_axis(x, x.ndim - 1, k.padded // k.groups)
    return x.reshape(*x.shape[: x.ndim - 1 - (k.padded != k.channels)], -1, k.tile[3])


def unlay_channels(x: Float[Array, "... x c"], k: Blocks) -> Float[Array, "... d"]:
    """Undo `lay_channels`."""
    lead = x.shape[:-2]
    if k.padded == k.channels:
        return x.reshape(*lead, k.channels)
    x = x.reshape(*lead, k.groups, k.padded // k.groups)
    return x[..., : k.channels // k.groups].reshape(*lead, k.channels)


def lay_states(x: Float[Array, "... n d"], k: Blocks) -> Float[Array, "... p q x c"]:
    """Pad and split states and channels."""
    p, _, q, _ = k.tile
    x = lay_channels(pad_axis(x, x.ndim - 2, k.n), k)
    return x.reshape(*x.shape[:-3], p, q, *x.shape[-2:])


def unlay_states(
    x: Float[Array, "... p q x c"], k: Blocks, n: int
) -> Float[Array, "... n d"]:
    """Undo `lay_states`."""
    x = unlay_channels(x.reshape(*x.shape[:-4], k.n, *x.shape[-2:]), k)
    return x[..., :n, :]


def lay_gates(x: Float[Array, "... n"], k: Blocks) -> Float[Array, "... p q"]:
    """Pad and split the states of B or C; zero gates leave padded states at zero."""
    x = pad_axis(x, x.ndim - 1, k.n)
    return x.reshape(*x.shape[:-1], k.tile[0], k.tile[2])


class Operands(NamedTuple):
    """Operands of a kernel, laid out; an absent one is None.

    `A` holds A log2(e), so that exp(delta A) is a power of two.
    """

    u: Float[Array, "b l x c"]
    delta: Float[Array, "b l x c"]
    A: Float[Array, "p q x c"]
    B: Float[Array, "b l g p q"]
    C: Float[Array, "b l g p q"]
    D: Float[Array, "x c"] | None
    z: Float[Array, "b l x c"] | None
    delta_bias: Float[Array, "x c"] | None
    keep: Float[Array, "b l"] | None


def lay_out(inputs: ScanInputs, k: Blocks) -> Operands:
    """Pad and reshape what the kernels read; where nothing is padded nothing moves."""
    keep = None
    if inputs.segment_ids is not None:
        keep = keep_mask(inputs.segment_ids).astype(jnp.float32)
    laid = {
        name: None if x is None else lay_channels(x, k)
        for name, x in inputs._asdict().items()
        if name in ("u", "delta", "D", "z", "delta_bias")
    }
    A = lay_states(inputs.A.astype(jnp.float32).T * jnp.float32(LOG2_E), k)
    return Operands(
        A=A, B=lay_gates(inputs.B, k), C=lay_gates(inputs.C, k), keep=keep, **laid
    )


def lay_initial_state(inputs: ScanInputs, k: Blocks) -> Float[Array, "b p q x c"]:
    """Return the initial state, or zeros, laid out."""
    if inputs.initial_state is None:
        return jnp.zeros((k.batch, *state_shape(k)), jnp.float32)
    state = jnp.swapaxes(inputs.initial_state.astype(jnp.float32), 1, 2)
    return lay_states(state, k)


def state_shape(k: Blocks) -> tuple[int, int, int, int]:
    """Return (p, q, x, c)."""
    return k.tile[0], k.tile[2], k.padded // k.tile[3], k.tile[3]


# Segments -----------------------------------------------------------------------------


def combine_segments(
    decay: Float[Array, "b s p q x c"],
    local: Float[Array, "... b s p q x c"],
    start: Float[Array, "... b p q x c"],
    *,
    reverse: bool = False,
) -> Float[Array, "... b s p q x c"]:
    """Return the state that each segment starts from.

        h[s+1] = decay[s] h[s] + local[s],    h[0] = start

    Args:
      decay: what a segment does to the state it is given: exp(A sum delta), or zero
        where a reset falls into it.
      local: the end of each segment that starts from zero.
      start: the state before the first segment (behind the last one, if reversed).
      reverse: whether segments follow each other from the last to the first.
    """
    axis = local.ndim - decay.ndim + 1
    decay = jnp.broadcast_to(
        decay.reshape((1,) * (axis - 1) + decay.shape), local.shape
    )

    def combine(left, right):
        return left[0] * right[0], left[1] * right[0] + right[1]

    total, ends = lax.associative_scan(
        combine, (decay, local), axis=axis, reverse=reverse
    )
    start = jnp.expand_dims(start, axis)
    ends = total * start + ends
    if reverse:
        rest = lax.slice_in_dim(ends, 1, None, axis=axis)
        return jnp.concatenate([rest, start], axis)
    rest = lax.slice_in_dim(ends, 0, -1, axis=axis)
    return jnp.concatenate([start, rest], axis)


def refuse_float64(inputs: ScanInputs, name: str) -> None:
    """Raise where an operand is float64."""
    wide = [k for k, x in inputs._asdict().items()
            if x is not None and x.dtype == jnp.float64]  # fmt: skip
    if wide:
        raise NotImplementedError(
            f"{name} computes in float32, but {', '.join(wide)} "
            f"{'is' if len(wide) == 1 else 'are'} float64. Cast to float32, or give "
            f"implementation='xla', which keeps float64."
        )


def directions_together(count: int, most: int) -> int:
    """Return how many directions a program takes: the largest divisor up to `most`."""
    return max(k for k in range(1, most + 1) if count % k == 0)

