"""A program of a GPU kernel, and the arithmetic of one token.

A backend says how a program reads, writes and sums (a subclass of `Program`); what it
computes is written once, here and in `gpu.kernels`. Two kinds of values: one for each
channel of the program, and tiles of states, n for each channel.
"""

import abc
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jmamba_kernels.selective_scan.contract import CHUNK
from jmamba_kernels.selective_scan.gpu.blocks import Blocks, Operands
from jmamba_kernels.selective_scan.gpu.elementwise import softplus_by_series


@dataclasses.dataclass(frozen=True)
class Program(abc.ABC):
    """Where a program is, what it is compiled for, and how it works.

    Attributes:
      block, row, segment: its channel block, batch row and segment.
      direction: the first of its directions.
      k: sizes of the launch.
      delta_softplus: see `contract`.
      native: whether it runs on a chip, not in the interpreter, which knows no
        instructions of one.
    """

    block: Any
    row: Any
    segment: Any
    direction: Any
    k: Blocks
    delta_softplus: bool
    native: bool

    @property
    def tokens(self):
        """The program's first token and the one behind its last, of whole chunks."""
        first = self.segment * self.k.chunks_per_segment
        behind = jnp.minimum(first + self.k.chunks_per_segment, self.k.chunks)
        return first * CHUNK, behind * CHUNK

    @property
    def group(self):
        """The group of B and C that the program's channels share."""
        return jax.lax.div(self.block, jnp.int32(self.k.blocks_per_group))

    def clip(self, t):
        """Return t, or the last token instead of one past the end."""
        return jnp.minimum(t, self.k.length - 1) if self.k.ragged else t

    def only_inside(self, value, t, outside=0.0) -> jax.Array:
        """Return the value, or `outside` where token t is past the end."""
        return jnp.where(t < self.k.length, value, outside) if self.k.ragged else value

    @abc.abstractmethod
    def zeros(self) -> tuple[jax.Array, jax.Array]:
        """Return zeros: one for each channel, and a tile of states."""

    @abc.abstractmethod
    def read_token(self, ref, t, *lead) -> jax.Array:
        """Read a token's values, one for each channel; past the end, the last one's."""

    @abc.abstractmethod
    def read_channels(self, ref, *lead) -> jax.Array:
        """Read values that all tokens share, in float32."""

    @abc.abstractmethod
    def read_gate(self, ref, t, *lead) -> jax.Array:
        """Read B[t] or C[t] in float32, so that it multiplies tiles."""

    @abc.abstractmethod
    def read_states(self, ref, *lead) -> jax.Array:
        """Read a tile of states."""

    @abc.abstractmethod
    def write_token(self, ref, t, value, *lead) -> None:
        """Write a value for each channel unless the token is past the end."""

    @abc.abstractmethod
    def write_channels(self, ref, value, *lead) -> None:
        """Write a value for each channel that all tokens share."""

    @abc.abstractmethod
    def write_gate(self, ref, t, value, *lead) -> None:
        """Write this block's part of d_B[t] or d_C[t] unless t is past the end."""

    @abc.abstractmethod
    def write_states(self, ref, value, *lead) -> None:
        """Write a tile of states."""

    @abc.abstractmethod
    def over_states(self, value) -> jax.Array:
        """Spread a value for each channel over the states, so that it multiplies."""

    @abc.abstractmethod
    def sum_states(self, tile) -> jax.Array:
        """Sum a tile over its states."""

    @abc.abstractmethod
    def sum_channels(self, tile) -> jax.Array:
        """Sum a tile over the channels."""

    @abc.abstractmethod
    def multiply_add(self, a, b, c) -> jax.Array:
        """Return a b + c."""

    @abc.abstractmethod
    def exp2(self, tile) -> jax.Array:
        """Return 2^tile; zero where that is below 2^-126."""


class Token(NamedTuple):
    """A token's operands, one for each channel, as they lie in memory."""

    u: jax.Array
    delta: jax.Array
    z: jax.Array | None


def read_token(x: Operands, at: Program, t) -> Token:
    """Read u, delta and z of a token."""
    z = None if x.z is None else at.read_token(x.z, t)
    return Token(at.read_token(x.u, t), at.read_token(x.delta, t), z)


def widen(value) -> jax.Array:
    """Return a value in float32."""
    return value.astype(jnp.float32)


def step_sizes(x: Operands, at: Program, token: Token, t):
    """Return delta[t] + delta_bias, and delta[t] as the recurrence takes it.

    The latter is zero past the end: the identity.
    """
    raw = widen(token.delta)
    if x.delta_bias is not None:
        raw += at.read_channels(x.delta_bias)
    delta = softplus_by_series(raw) if at.delta_softplus else raw
    return raw, at.only_inside(delta, t)


def decay_tile(x: Operands, at: Program, A, delta, t):
    """Return exp(delta[t] A) keep[t]."""
    return keep_until(x, at, at.exp2(A * at.over_states(delta)), t)


def advance(x: Operands, at: Program, A, h, token: Token, t):
    """Return h[t] from h[t-1], and the step size."""
    _, delta = step_sizes(x, at, token, t)
    A_bar = decay_tile(x, at, A, delta, t)
    source = at.over_states(delta * widen(token.u)) * at.read_gate(x.B, t)
    return at.multiply_add(A_bar, h, source), delta


def keep_until(x: Operands, at: Program, value, t):
    """Return the value, or zero where the state is reset before token t."""
    if x.keep is None:
        return value
    return value * at.only_inside(x.keep[at.row, at.clip(t)], t, outside=1.0)


class Step(NamedTuple):
    """What the reversed pass needs of a token."""

    t: jax.Array
    token: Token
    raw: jax.Array
    delta: jax.Array
    A_bar: jax.Array
    h_before: jax.Array
    h: jax.Array


def keep_steps(x: Operands, at: Program, A, h, t0, count: int) -> list[Step]:
    """Run a block of tokens forward and keep everything."""
    steps = []
    for t in [t0 + j for j in range(count)]:
        token = read_token(x, at, t)
        raw, delta = step_sizes(x, at, token, t)
        A_bar = decay_tile(x, at, A, delta, t)
        source = at.over_states(delta * widen(token.u)) * at.read_gate(x.B, t)
        h_before, h = h, at.multiply_add(A_bar, h, source)
        steps.append(Step(t, token, raw, delta, A_bar, h_before, h))
    return steps
