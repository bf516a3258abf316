"""What the TPU kernels share: tokens, parameters and states of a block, as refs."""

import operator
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from jmamba_kernels.selective_scan.contract import ScanInputs
from jmamba_kernels.selective_scan.tpu.layout import TOKENS, Layout

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
            return self.block[group, rows_of(token, self.block)]
        return self.wide[rows_of(token, self.wide)]

    def write(self, group, token, value):
        """Set one token."""
        if self.wide is None:
            self.block[group, rows_of(token, self.block)] = value
        else:
            self.wide[rows_of(token, self.wide)] = value

    def close(self, group):
        """Bring the eight written tokens of a group into the block."""
        if self.wide is not None:
            self.block[group] = self.wide[...].astype(self.block.dtype)


def rows_of(token, ref):
    """Return where one of eight tokens lies among the rows of its memory tiles."""
    return pl.ds(token, ref.shape[-2] // TOKENS, stride=TOKENS)


def make_tracks(refs, wide, lead=(0,)) -> dict[str, Track]:
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


def read_channels(x: ScanInputs, lead=(0,)) -> Channels:
    """Return the parameters of a tile of channels."""
    return Channels(*(None if r is None else r[lead] for r in (x.D, x.delta_bias)))


def scalars(ref, layout: Layout, token, lead=(0, 0, 0, 0)):
    """Return a function from a state to the scalar B[t, n] or C[t, n]."""
    start = token * layout.padded_states
    return lambda i: ref[(*lead, start + i)]


def decay_state(x: ScanInputs, delta, token, i):
    """Return exp(delta A) keep for one state."""
    A_bar = jnp.exp2(delta * x.A[0, i])
    return A_bar if x.segment_ids is None else A_bar * x.segment_ids[0, 0, 0, token]


def groups_in(layout: Layout, block, first=0, count=None):
    """Return how many groups of eight tokens from `first` on are in the sequence."""
    total = -(-layout.length // TOKENS)
    per_block = layout.tokens // TOKENS
    count = per_block if count is None else count
    return jnp.clip(total - block * per_block - first, 0, count)


def keep_real(layout: Layout, token, value):
    """Return zero for a token that padding added: a bias reaches that one too."""
    if layout.length % TOKENS == 0:
        return value
    return jnp.where(token < layout.length, value, 0.0)


def add_up(terms):
    """Return the sum of one or more arrays."""
    return reduce(operator.add, terms)


def set_initial_state(time, state_ref, initial_ref, lead=(0, 0)):
    """Set the state before the first block of time."""

    @pl.when(time == 0)
    def _():
        if initial_ref is None:
            state_ref[...] = jnp.zeros_like(state_ref)
        else:
            state_ref[...] = initial_ref[lead]
