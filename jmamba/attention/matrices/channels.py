"""The attention matrices of single channels, with more of the mixer folded in."""

from collections.abc import Callable, Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jmamba.attention.matrices.cumulative import DoubleSum, cumulative_sum
from jmamba.attention.matrices.factors import (
    PARTS,
    AnyInputs,
    Factors,
    directions_of,
    parameters_of,
)
from jmamba.attention.matrices.halving import whole_attention
from jmamba.types import SSMInputs


def channel_attention(
    delta: Float[Array, "l"],
    A: Float[Array, "n"],
    B: Float[Array, "l n"],
    C: Float[Array, "l n"],
    rows: Int[Array, "q"],
) -> Float[Array, "q l"]:
    """Return rows of the attention matrix of a single channel.

        alpha[i, j] = sum_n C[i, n] exp(A[n] sum_{j < k <= i} delta[k]) delta[j] B[j, n]
                      for j <= i, else 0

    so that `alpha @ u + D u` is what the channel's recurrence puts out, before the
    gate. Exponents are masked before exp and never positive; sums of step sizes carry
    their rounding errors along, so that long texts keep full precision.

    Args:
      delta: step sizes.
      A: decay rates.
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
    alpha = jnp.zeros(elapsed.shape, elapsed.dtype)
    for n in range(A.shape[0]):  # written out: an array (q, l, n) never exists
        decay = jnp.exp(jnp.where(causal, A[n] * elapsed, -jnp.inf))
        alpha = alpha + C_rows[:, n][:, None] * decay * B[:, n][None]
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
    """What a channel has of its own; None for what is not folded in.

    Leaves have a leading axis of channels where several are meant.
    """

    delta: Float[Array, "*d b l"]
    A: Float[Array, "*d n"]
    D: Float[Array, "*d"] | None
    slope: Float[Array, "*d b l"] | None
    taps: Float[Array, "*d k"] | None
    gate: Float[Array, "*d b l"] | None


class Direction(NamedTuple):
    """One direction of a layer: its channels, and the gates that they share."""

    channels: Channel
    B: Float[Array, "b l n"]
    C: Float[Array, "b l n"]


def open_directions(inputs: AnyInputs, fold: Collection[str]) -> tuple[Direction, ...]:
    """Return the directions of a layer with what is to be folded in.

    Raises:
      ValueError: a part is unknown, or needs `factorise`.
    """
    check_fold(inputs, fold)
    return tuple(_open(one, fold) for one in directions_of(inputs))


def check_fold(inputs: AnyInputs, fold: Collection[str]) -> None:
    """Raise unless the parts can be folded into the attention of these inputs.

    Raises:
      ValueError: a part is unknown, or needs `factorise`.
    """
    unknown = [part for part in fold if part not in PARTS]
    if isinstance(fold, str) or unknown:
        raise ValueError(
            f"fold={fold!r}: give some of {', '.join(PARTS)}, as in "
            'fold=("conv", "silu"), or () for the recurrence alone.'
        )
    has_factors = all(isinstance(one, Factors) for one in directions_of(inputs))
    if not has_factors and {"conv", "silu"} & set(fold):
        raise ValueError(
            f"fold={tuple(fold)} needs the convolution, which selective parameters do "
            "not hold: give factorise(model.layer(i), residual_in) in their place."
        )


def _open(one: SSMInputs | Factors, fold: Collection[str]) -> Direction:
    ssm = parameters_of(one)
    dtype = ssm.delta.dtype

    def by_channel(x):
        return jnp.moveaxis(x.astype(dtype), 2, 0)  # b l d -> d b l

    channels = Channel(
        delta=by_channel(ssm.delta),
        A=ssm.A,
        D=ssm.D.astype(dtype) if "D" in fold else None,
        slope=by_channel(one.slope)
        if "silu" in fold and isinstance(one, Factors)
        else None,
        taps=one.taps.astype(dtype)
        if "conv" in fold and isinstance(one, Factors)
        else None,
        gate=by_channel(jax.nn.silu(ssm.z)) if "gate" in fold else None,
    )
    return Direction(channels, ssm.B.astype(dtype), ssm.C.astype(dtype))


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
    delta, A, D, slope, taps, gate = channel
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


_sample_axes = Channel(0, None, None, 0, None, 0)  # pyright: ignore[reportArgumentType]
_all_samples = jax.vmap(_fold_channel, in_axes=(_sample_axes, 0, 0, 0))
_all_channels = jax.vmap(_all_samples, in_axes=(0, None, None, None))
