"""The hidden attention matrices of a Mamba layer."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmamba.attention.cumulative import DoubleSum, cumulative_sum
from jmamba.positions import choose_positions
from jmamba.types import SSMInputs

MEMORY_LIMIT = 4 * 2**30
"""Bytes that one call may return before it asks for a reduction instead."""


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

    References:
      Ali, Zimerman & Wolf, "The Hidden Attention of Mamba Models", ACL 2025, eq. 14-16.
    """
    S = cumulative_sum(delta)
    query = DoubleSum(S.high[rows][:, None], S.low[rows][:, None])
    elapsed = query.minus(DoubleSum(S.high[None], S.low[None]))  # q l
    causal = jnp.arange(delta.shape[0])[None, :] <= rows[:, None]
    C_rows = C[rows]
    alpha = jnp.zeros_like(elapsed)
    for n in range(A.shape[0]):  # written out: an array (q, l, n) never exists
        decay = jnp.exp(jnp.where(causal, A[n] * elapsed, -jnp.inf))
        alpha = alpha + C_rows[:, n][:, None] * decay * B[:, n][None]
    return alpha * delta[None]


def hidden_attention(
    ssm: SSMInputs,
    *,
    channels: Sequence[int] | None = None,
    rows: Sequence[int] | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> Float[Array, "b c q l"]:
    """Return exact attention matrices of one layer, one per channel.

    See `channel_attention` for the formula. A single row costs O(l d n).

    Args:
      ssm: selective parameters of a layer, `trace(...).layer(i)`.
      channels: which channels; None for all d.
      rows: which query positions, negative ones from the end; None for all l.
      memory_limit: bytes the result may take.

    Raises:
      ValueError: a channel or row does not exist, or the result would be larger than
        the limit; the message names the bytes and what to do.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> ssm = jmamba.trace(model, jnp.array([list(b"hello")])).layer(1)
      >>> alpha = hidden_attention(ssm)
      >>> alpha.shape
      (1, 32, 5, 5)
      >>> y, _ = jmamba.ops.selective_scan(*ssm[:5])  # without D and gate
      >>> seen = jnp.einsum("bdij,bjd->bid", alpha, ssm.u)
      >>> bool(jnp.allclose(seen, y, atol=1e-6))
      True

    References:
      Ali, Zimerman & Wolf, "The Hidden Attention of Mamba Models", ACL 2025, eq. 14-16.
    """
    queries = choose_positions(rows, ssm.u.shape[1], "rows")
    chosen = choose_positions(channels, ssm.u.shape[2], "channels")
    batch, length = ssm.u.shape[:2]
    size = batch * len(chosen) * len(queries) * length * ssm.delta.dtype.itemsize
    if size > memory_limit:
        raise ValueError(
            f"hidden_attention would return {size / 2**30:.1f} GiB ({batch} texts x "
            f"{len(chosen)} channels x {len(queries)} rows x {length} tokens), over "
            f"the limit of {memory_limit / 2**30:.1f} GiB. Ask for some rows=[...] or "
            "channels=[...], reduce over channels with reduced_attention(...), or "
            "raise memory_limit."
        )
    return _hidden_attention(ssm, chosen, queries)


@jax.jit
def _hidden_attention(ssm, channels, rows):
    delta, A = ssm.delta[:, :, channels], ssm.A[channels]
    return _all_channels(delta, A, *_gates(ssm), rows)


def _gates(ssm):
    return ssm.B.astype(ssm.delta.dtype), ssm.C.astype(ssm.delta.dtype)


_over_channels = jax.vmap(channel_attention, in_axes=(1, 0, None, None, None))
_all_channels = jax.vmap(_over_channels, in_axes=(0, None, 0, 0, None))


class Reduction(NamedTuple):
    """How matrices of channels become one: combine, over channels, each(alpha)."""

    each: Callable
    combine: Callable
    across: Callable
    start: float
    mean: bool = False


REDUCTIONS = {
    "mean": Reduction(lambda a: a, jnp.add, jnp.sum, 0.0, mean=True),
    "mean_abs": Reduction(jnp.abs, jnp.add, jnp.sum, 0.0, mean=True),
    "max": Reduction(lambda a: a, jnp.maximum, jnp.max, -jnp.inf),
    "min": Reduction(lambda a: a, jnp.minimum, jnp.min, jnp.inf),
}
"""Reductions over channels that `reduced_attention` knows."""


def reduced_attention(
    ssm: SSMInputs,
    reduction: str = "mean_abs",
    *,
    rows: Sequence[int] | None = None,
    channels_at_once: int = 8,
) -> Float[Array, "b q l"]:
    """Return one attention matrix per text, reduced over the channels of a layer.

    Channels come a few at a time: no array of shape (d, l, l) exists.

    Args:
      ssm: selective parameters of a layer, `trace(...).layer(i)`.
      reduction: "mean", "mean_abs" (mean of |alpha|), "max" or "min".
      rows: which query positions, negative ones from the end; None for all l.
      channels_at_once: channels whose matrices are in memory together.

    Raises:
      ValueError: the reduction is unknown or a row does not exist.

    References:
      Ali, Zimerman & Wolf, "The Hidden Attention of Mamba Models", ACL 2025, sec. 4.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"Unknown reduction {reduction!r}; give one of {', '.join(REDUCTIONS)}."
        )
    queries = choose_positions(rows, ssm.u.shape[1], "rows")
    at_once = max(1, min(channels_at_once, ssm.u.shape[2]))
    return _reduced_attention(ssm, queries, reduction, at_once)


@partial(jax.jit, static_argnames=("reduction", "at_once"))
def _reduced_attention(ssm, rows, reduction, at_once):
    each, combine, across, start, mean = REDUCTIONS[reduction]
    B, C = _gates(ssm)
    batch, length, channels = ssm.delta.shape

    def add(total, part):
        delta, A = part
        alpha = each(_all_channels(delta, A, B, C, rows))
        return combine(total, across(alpha, axis=1)), None

    whole = channels // at_once * at_once

    def chunks(x, axis):
        parts = jnp.moveaxis(x, axis, 0)[:whole]
        parts = parts.reshape(-1, at_once, *parts.shape[1:])
        return jnp.moveaxis(parts, 1, axis + 1)

    total = jnp.full((batch, len(rows), length), start, ssm.delta.dtype)
    total, _ = jax.lax.scan(add, total, (chunks(ssm.delta, 2), chunks(ssm.A, 0)))
    if whole < channels:
        total, _ = add(total, (ssm.delta[:, :, whole:], ssm.A[whole:]))
    return total / channels if mean else total
