"""The attention matrices of single channels, with more of the mixer folded in."""

from collections.abc import Callable, Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jmamba.attention.matrices.cumulative import DoubleSum, cumulative_sum
from jmamba.attention.matrices.factors import (
    AnyInputs,
    Factors,
    check_fold,
    first_recurrence,
    recurrence_in,
    split_directions,
)
from jmamba.attention.matrices.halving import whole_attention
from jmamba.ops.meshes import on_any_mesh
from jmamba.types import OfHeads, Recurrence, SideBySide


@on_any_mesh
def channel_attention(
    delta: Float[Array, "l"],
    A: Float[Array, "rates"],
    B: Float[Array, "l n"],
    C: Float[Array, "l n"],
    rows: Int[Array, "q"],
) -> Float[Array, "q l"]:
    """Return rows of the attention matrix of a single channel or head.

        alpha[i, j] = sum_n C[i, n] exp(A[n] sum_{j < k <= i} delta[k]) delta[j] B[j, n]
                      for j <= i, else 0

    so that `alpha @ u + D u` is what the channel's recurrence puts out, before the
    gate. Exponents are masked before exp and never positive; sums of step sizes carry
    their rounding errors along, so that long texts keep full precision.

    Args:
      delta: step sizes.
      A: decay rates, one for each state or one for all.
      B: input gates.
      C: output gates.
      rows: the query positions i.

    Examples:
      >>> steps, ones = jnp.array([1.0, 0.5, 2.0]), jnp.ones((3, 1))
      >>> last = channel_attention(steps, -jnp.ones(1), ones, ones, jnp.array([2]))
      >>> [round(float(weight), 3) for weight in last[0]]  # exp(-2.5), 0.5 exp(-2), 2
      [0.082, 0.068, 2.0]

    References:
      Ali, Zimerman & Wolf, "The Hidden Attention of Mamba Models", ACL 2025, eq. 14-16.
    """
    elapsed, causal = elapsed_time(delta, rows)
    C_rows = C[rows]

    def decay(rate):
        return jnp.exp(jnp.where(causal, rate * elapsed, -jnp.inf))

    if A.shape[0] < B.shape[1]:  # one rate
        alpha = jnp.einsum("qn,jn->qj", C_rows, B, precision="highest") * decay(A[0])
        return alpha * delta[None]
    alpha = jnp.zeros(elapsed.shape, elapsed.dtype)
    for n in range(A.shape[0]):  # written out: an array (q, l, n) never exists
        alpha = alpha + C_rows[:, n][:, None] * decay(A[n]) * B[:, n][None]
    return alpha * delta[None]


def elapsed_time(
    delta: Float[Array, "l"], rows: Int[Array, "q"]
) -> tuple[Float[Array, "q l"], Bool[Array, "q l"]]:
    """Return sum_{j < k <= i} delta[k] for each query i and key j, and where j <= i."""
    S = cumulative_sum(delta)
    query = DoubleSum(S.high[rows][:, None], S.low[rows][:, None])
    elapsed = query.minus(DoubleSum(S.high[None], S.low[None]))  # q l
    return elapsed, jnp.arange(delta.shape[0])[None, :] <= rows[:, None]


class Channel(NamedTuple):
    """What a channel, or a head, has of its own; None for what is not folded in.

    Leaves have a leading axis of channels where several are meant. `group` says which
    B and C are its own, None if there is one group.
    """

    delta: Float[Array, "*d b l"]
    A: Float[Array, "*d n"]
    D: Float[Array, "*d"] | None = None
    slope: Float[Array, "*d b l"] | None = None
    taps: Float[Array, "*d k"] | None = None
    gate: Float[Array, "*d b l"] | None = None
    group: Int[Array, "*d"] | None = None


class Direction(NamedTuple):
    """One direction of a layer: its channels or heads, and the gates that they share.

    Matrices are those of heads, unless something is folded in that each of a head's
    channels has of its own.
    """

    channels: Channel
    B: Float[Array, "b l g n"]
    C: Float[Array, "b l g n"]


def open_directions(inputs: AnyInputs, fold: Collection[str]) -> tuple[Direction, ...]:
    """Return the directions of a layer with what is to be folded in.

    Raises:
      ValueError: a part is unknown, or needs `factorise`.
    """
    check_fold(inputs, fold)
    return tuple(_open(one, fold) for one in split_directions(inputs))


def count_matrices(recurrence: Recurrence, fold: Collection[str]) -> int:
    """Return how many matrices a direction has: of heads, or folded of channels."""
    return (recurrence.u if fold else recurrence.delta).shape[-1]


def measure_inputs(
    inputs: AnyInputs | OfHeads | SideBySide, fold: Collection[str]
) -> tuple[int, int, int, jnp.dtype]:
    """Return numbers of texts, tokens and matrices, and the dtype of these."""
    if isinstance(inputs, SideBySide):
        batch, length, own, dtype = measure_inputs(inputs.recurrent, fold)
        return batch, length, own + inputs.attention.queries.shape[2], dtype
    if isinstance(inputs, OfHeads):
        batch, length, heads = inputs.queries.shape[:3]
        return batch, length, heads, inputs.values.dtype
    one = first_recurrence(inputs)
    batch, length = one.u.shape[:2]
    return batch, length, count_matrices(one, fold), one.delta.dtype


def _open(one: Recurrence | Factors, fold: Collection[str]) -> Direction:
    recurrence = recurrence_in(one)
    dtype = recurrence.delta.dtype
    count, heads = count_matrices(recurrence, fold), recurrence.delta.shape[-1]
    groups = recurrence.B.shape[-2]

    def by_channel(x, name):
        if x is None or name not in fold:
            return None
        return jnp.moveaxis(x.astype(dtype), 2, 0)  # b l d -> d b l

    def each(x):  # of a head -> of each of its channels
        return x if count == heads else jnp.repeat(x, count // heads, axis=0)

    folded = one if isinstance(one, Factors) else None
    D, taps = recurrence.D, folded and folded.taps
    channels = Channel(
        delta=each(jnp.moveaxis(recurrence.delta, 2, 0)),
        A=each(recurrence.A),
        D=D.astype(dtype) if D is not None and "D" in fold else None,
        slope=by_channel(folded and folded.slope, "silu"),
        taps=taps.astype(dtype) if taps is not None and "conv" in fold else None,
        gate=by_channel(folded and folded.gate, "gate"),
        group=None if groups == 1 else jnp.arange(count) // (count // groups),
    )
    return Direction(channels, recurrence.B.astype(dtype), recurrence.C.astype(dtype))


def gates_of(
    group: Int[Array, "*d"] | None, B: Float[Array, "l g n"]
) -> Float[Array, "l n"] | Float[Array, "l d n"]:
    """Return the gates of a group; without groups the ones that there are."""
    return B[:, 0] if group is None else B[:, group]


def attend(
    directions: tuple[Direction, ...], rows: Int[Array, "b q"] | None
) -> Float[Array, "d b q l"]:
    """Return rows of the matrices of all channels.

    Two directions add up: alpha forward plus alpha backward with both axes flipped.

    Args:
      directions: one or two.
      rows: the query positions of each sample; None for all.

    References:
      Ali, Zimerman & Wolf, ACL 2025, section 3.2, for the sum.
    """
    total = _all_channels(*directions[0], rows)
    for backward in directions[1:]:
        last = backward.B.shape[1] - 1
        rows_back = None if rows is None else last - rows
        alpha = _all_channels(*backward, rows_back)
        total = total + jnp.flip(alpha, axis=(2, 3) if rows is None else 3)
    return total


def map_channels(
    directions: tuple[Direction, ...],
    measure: Callable[[tuple[Direction, ...]], Array],
    at_once: int,
) -> Float[Array, "d *rest"]:
    """Return what is measured of each channel alone, worked out for a few at a time.

    Args:
      directions: one or two.
      measure: function of the same directions with a single channel.
      at_once: channels that are in memory together.
    """

    def one(channels):
        return measure(
            with_channels(directions, jax.tree.map(lambda x: x[None], channels))
        )

    own = tuple(direction.channels for direction in directions)
    return jax.lax.map(one, own, batch_size=at_once)


def with_channels(
    directions: tuple[Direction, ...], channels: tuple[Channel, ...]
) -> tuple[Direction, ...]:
    """Return directions with other channels."""
    return tuple(
        one._replace(channels=own)
        for one, own in zip(directions, channels, strict=True)
    )


def _fold_channel(channel: Channel, B, C, rows):
    """Return rows of the matrix of one channel of one sample, all if rows is None."""
    delta, A, D, slope, taps, gate, group = channel
    B, C = gates_of(group, B), gates_of(group, C)
    if rows is None:
        alpha = whole_attention(delta, A, B, C)
        rows = jnp.arange(delta.shape[0])
    else:
        alpha = channel_attention(delta, A, B, C, rows)
    if D is not None:
        own = jnp.arange(delta.shape[0])[None] == rows[:, None]
        alpha = alpha + jnp.where(own, D, 0)
    if slope is not None:
        alpha = alpha * slope[None]
    if taps is not None:
        alpha = _times_band(alpha, taps)
    return alpha if gate is None else alpha * gate[rows][:, None]


def _times_band(alpha, taps):
    """Return alpha conv, where conv[t, s] = taps[k-1 - (t-s)] for 0 <= t-s < k."""
    length, window = alpha.shape[1], taps.shape[0]
    ahead = jnp.pad(alpha, ((0, 0), (0, window - 1)))
    shifted = (
        ahead[:, back : back + length] * taps[window - 1 - back]
        for back in range(window)
    )
    return sum(shifted, start=jnp.zeros_like(alpha))


_sample_axes = Channel(0, None, None, 0, None, 0, None)  # pyright: ignore[reportArgumentType]
_all_samples = jax.vmap(_fold_channel, in_axes=(_sample_axes, 0, 0, 0))
_all_channels = jax.vmap(_all_samples, in_axes=(0, None, None, None))
