"""How the operands of the scan lie on a TPU, and how large a kernel's blocks are.

A vector register holds (8, 128) numbers. The kernels put 128 channels on the lanes and
up to 16 times 128 channels on the sublanes, one value per token and state: nothing
crosses lanes, and B[t], C[t] are scalars.

An array (l, d) lies in memory as tiles of 8 tokens by 128 channels. Seen as
(l/8, d/128 * 8, 128) it keeps its bytes, so that XLA copies nothing, and a token's
channels are every eighth row of its 8: the kernel loads them with stride 8.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jmamba_kernels.selective_scan.contract import CHUNK

LANES = 128
TOKENS = 8
"""Tokens in a memory tile, unrolled in the kernels."""

VMEM_BYTES = 12 * 2**20
"""What a kernel plans to hold; the compiler allows 16 MiB on every generation."""


def block_bytes(rows: int, states: int, chunks: int = 1, operands: int = 7) -> int:
    """Return the VMEM bytes of the cotangent kernel, the largest of the three.

    Of (rows, 128) float32 tiles it holds, double-buffered, `operands` values per token
    (u, delta, z, d_y in; d_u, d_delta, d_z out) and the saved states, and once the
    states of a chunk, the state itself thrice (A, d_A, g), and two values per token.
    """
    padded_rows = -(-rows // 8) * 8
    tile = padded_rows * LANES * 4
    per_token = 2 * operands + 2
    return tile * (CHUNK * (chunks * per_token + states) + (2 + 2 * 3) * states)


def choose_rows(channels: int, states: int) -> int:
    """Return how many rows of 128 channels a block has.

    Two registers per value (9 to 16 rows) share the splat of the scalars B[t, n] and
    C[t, n], which is one vector instruction beside six per register. So the cost of a
    block is taken as 6 ceil(rows / 8) + 2. Rows that do not divide the channels cost
    a padded copy of every operand beside, about one more for each row. The rows of
    least cost are taken, the fewer on a tie, within `VMEM_BYTES`.
    """
    total = -(-channels // LANES)
    fitting = [
        rows
        for rows in range(1, min(total, 16) + 1)
        if rows == 1 or block_bytes(rows, states) <= VMEM_BYTES
    ]

    def cost(rows):
        copy = total if total % rows else 0
        return -(-total // rows) * (6 * -(-rows // 8) + 2) + copy

    return min(fitting, key=lambda rows: (cost(rows), rows))


@dataclass(frozen=True)
class Layout:
    """Sizes of one call, and the arrays and block specs that follow from them.

    Grids are (directions, batch, tile of channels, block of time).
    """

    batch: int
    length: int
    channels: int
    states: int
    groups: int
    rows: int
    chunks: int
    is_reversed: bool = False

    @property
    def tokens(self) -> int:
        """Tokens in a block of time."""
        return self.chunks * CHUNK

    @property
    def blocks(self) -> int:
        """Blocks of time."""
        return -(-self.length // self.tokens)

    @property
    def num_chunks(self) -> int:
        """Saved states."""
        return -(-self.length // CHUNK)

    @property
    def tiles_per_group(self) -> int:
        """Tiles of channels in a group of B and C."""
        return -(-self.channels // self.groups // (self.rows * LANES)) or 1

    @property
    def tiles(self) -> int:
        """Tiles of channels."""
        return self.groups * self.tiles_per_group

    @property
    def padded_states(self) -> int:
        """States, a multiple of the 8 rows of a register."""
        return -(-self.states // TOKENS) * TOKENS

    # Arrays: padding is the identity (zero inputs, gates and rates) -------------------

    def _pad(self, x, axis, size, value=0.0):
        if x.shape[axis] == size:
            return x
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, size - x.shape[axis])
        return jnp.pad(x, widths, constant_values=value)

    def _pad_channels(self, x):
        """(..., d) -> (..., tiles * rows * 128), every group padded by itself."""
        width = self.tiles_per_group * self.rows * LANES
        x = x.reshape(*x.shape[:-1], self.groups, self.channels // self.groups)
        return self._pad(x, x.ndim - 1, width).reshape(*x.shape[:-2], -1)

    def _cut_channels(self, x):
        x = x.reshape(*x.shape[:-1], self.groups, -1)
        x = x[..., : self.channels // self.groups]
        return x.reshape(*x.shape[:-2], self.channels)

    def over_time(self, x):
        """(..., l, d) -> (..., l/8, d/128 * 8, 128)."""
        x = self._pad(x, x.ndim - 2, -(-self.length // TOKENS) * TOKENS)
        return _to_tiles(self._pad_channels(x))

    def from_time(self, x):
        """Undo `over_time`."""
        x = self._cut_channels(_from_tiles(x))
        return x[..., : self.length, :]

    def over_channels(self, x):
        """(..., d) -> (..., tiles, rows, 128)."""
        x = self._pad_channels(x)
        return x.reshape(*x.shape[:-1], self.tiles, self.rows, LANES)

    def from_channels(self, x):
        """Undo `over_channels`."""
        return self._cut_channels(x.reshape(*x.shape[:-3], -1))

    def over_states(self, x):
        """(..., d, n) -> (..., tiles, n, rows, 128)."""
        x = self._pad(x, x.ndim - 1, self.padded_states)
        x = self.over_channels(jnp.swapaxes(x, -1, -2))  # ... n tiles rows 128
        return jnp.swapaxes(x, -4, -3)

    def from_states(self, x):
        """Undo `over_states`."""
        x = self.from_channels(jnp.swapaxes(x, -4, -3))  # ... n d
        return jnp.swapaxes(x, -1, -2)[..., : self.states]

    def over_gates(self, x):
        """(..., l, g, n) -> (..., g, blocks, 1, tokens * n): scalars of a block."""
        x = self._pad(x, x.ndim - 1, self.padded_states)
        x = self._pad(x, x.ndim - 3, self.blocks * self.tokens)
        x = jnp.swapaxes(x, -3, -2)  # ... g l n
        return x.reshape(*x.shape[:-2], self.blocks, 1, self.tokens * x.shape[-1])

    def from_gates(self, x):
        """(..., tiles, chunks, n/2, 128), pairs of sums each -> (..., l, g, n)."""
        x = x.reshape(*x.shape[:-4], self.groups, self.tiles_per_group, -1)
        x = jnp.sum(x, axis=-2).reshape(*x.shape[:-2], -1, self.padded_states, 2)
        x = jnp.sum(x, axis=-1)
        return jnp.swapaxes(x, -3, -2)[..., : self.length, :, : self.states]

    def over_keep(self, x):
        """(b, l) -> (b, blocks, 1, tokens)."""
        x = self._pad(x.astype(jnp.float32), 1, self.blocks * self.tokens, 1.0)
        return x.reshape(self.batch, self.blocks, 1, self.tokens)

    def over_chunks(self, x):
        """(b, m, n, d) -> (b, m, n/8, d/128 * 8, 128), like tokens."""
        x = self._pad(x, 2, self.padded_states)
        return _to_tiles(self._pad_channels(x))

    def from_chunks(self, x):
        """Undo `over_chunks`."""
        return self._cut_channels(_from_tiles(x))[:, :, : self.states]

    # Block specs ----------------------------------------------------------------------

    def _spec(self, block, index, directions, memory_space=None):
        """Return a spec; `index` maps (batch, tile, time) to the block's index."""

        def locate(k, b, tile, time):
            if self.is_reversed:
                time = self.blocks - 1 - time
            return ((k,) if directions else ()) + index(b, tile, time)

        lead = (directions,) if directions else ()
        if memory_space is None:
            return pl.BlockSpec((*lead, *block), locate)
        return pl.BlockSpec((*lead, *block), locate, memory_space=memory_space)

    def time_spec(self, directions=0):
        """Return the spec of an array made by `over_time`."""
        block = (1, self.tokens // TOKENS, self.rows * TOKENS, LANES)
        return self._spec(block, lambda b, tile, time: (b, time, tile, 0), directions)

    def channel_spec(self, directions=0, batched=False):
        """Return the spec of an array made by `over_channels`."""
        block = (1, self.rows, LANES)
        if batched:
            return self._spec(
                (1, *block), lambda b, tile, time: (b, tile, 0, 0), directions
            )
        return self._spec(block, lambda b, tile, time: (tile, 0, 0), directions)

    def state_spec(self, directions=0, batched=True):
        """Return the spec of an array made by `over_states`."""
        block = (1, self.padded_states, self.rows, LANES)
        if batched:
            return self._spec(
                (1, *block), lambda b, tile, time: (b, tile, 0, 0, 0), directions
            )
        return self._spec(block, lambda b, tile, time: (tile, 0, 0, 0), directions)

    def gate_spec(self, directions=0):
        """Return the spec of scalars made by `over_gates`."""
        block = (1, 1, 1, 1, self.tokens * self.padded_states)
        per_group = self.tiles_per_group

        def index(b, tile, time):
            # lax.div, since // rounds down by sign, which Mosaic asks the chip about
            return b, lax.div(tile, jnp.int32(per_group)), time, 0, 0

        return self._spec(block, index, directions, pltpu.SMEM)

    def keep_spec(self):
        """Return the spec of scalars made by `over_keep`."""
        block = (1, 1, 1, self.tokens)
        return self._spec(block, lambda b, tile, time: (b, time, 0, 0), 0, pltpu.SMEM)

    def chunk_spec(self):
        """Return the spec of an array made by `over_chunks`."""
        block = (
            1,
            self.chunks,
            self.padded_states // TOKENS,
            self.rows * TOKENS,
            LANES,
        )
        return self._spec(block, lambda b, tile, time: (b, time, 0, tile, 0), 0)

    def gate_sum_spec(self):
        """Return the spec of an array that `from_gates` reads."""
        block = (1, 1, 1, 2 * CHUNK * self.padded_states // LANES, LANES)
        return self._spec(block, lambda b, tile, time: (b, tile, time, 0, 0), 1)


def _to_tiles(x):
    """(..., r, c) -> (..., r/8, c/128 * 8, 128), which keeps the bytes of its tiles."""
    *lead, r, c = x.shape
    x = x.reshape(*lead, r // TOKENS, TOKENS, c // LANES, LANES)
    x = jnp.swapaxes(x, -3, -2)
    return x.reshape(*lead, r // TOKENS, c // LANES * TOKENS, LANES)


def _from_tiles(x):
    *lead, r, c, _ = x.shape
    x = x.reshape(*lead, r, c // TOKENS, TOKENS, LANES)
    x = jnp.swapaxes(x, -3, -2)
    return x.reshape(*lead, r * TOKENS, c // TOKENS * LANES)
