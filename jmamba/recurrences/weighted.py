"""Layers that weigh tokens by exponentials and divide by sums: RWKV-4, mLSTM."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmamba.types import GatedRecurrence

Keys = Float[Array, "b l h n"]
Heads = Float[Array, "b l h"]


def rwkv4(
    keys: Float[Array, "b l d"],
    values: Float[Array, "b l d"],
    time_decay: Float[Array, "d"],
    time_first: Float[Array, "d"],
) -> GatedRecurrence:
    """Return RWKV-4: a head with one state for every channel, rows that add up to 1.

        e[i, j] = exp(k_j - exp(time_decay) (i - 1 - j))    for j < i
        e[i, i] = exp(k_i + time_first)
        alpha[i, j] = e[i, j] / sum_j e[i, j]

    Args:
      keys, values: of every channel, their mixing with the token before done.
      time_decay, time_first: of every channel.

    Examples:
      >>> from jmamba.attention import hidden_attention
      >>> ones = jnp.ones((1, 4, 1))
      >>> alpha = hidden_attention(rwkv4(ones, ones, ones[0, 0], ones[0, 0]))
      >>> [round(float(s), 5) for s in alpha[0, 0].sum(-1)]
      [1.0, 1.0, 1.0, 1.0]

    References:
      Peng et al., "RWKV", arXiv 2305.13048, section 3.1.
    """
    ones = jnp.ones_like(keys)[..., None]
    return GatedRecurrence(
        ones,
        ones,
        values[..., None],
        jnp.broadcast_to(-jnp.exp(time_decay), keys.shape)[..., None],
        log_weights=keys,
        bonus=jnp.exp(time_first)[:, None],
        floor=jnp.zeros_like(time_first),
    )


def mlstm(
    queries: Keys,
    keys: Keys,
    values: Float[Array, "b l h p"],
    input_gate: Heads,
    forget_gate: Heads,
) -> GatedRecurrence:
    """Return xLSTM's matrix memory.

        s[i, j] = n^-1/2 (q_i . k_j) exp(i_j + sum_{j < t <= i} logsigmoid(f_t))
        alpha[i, j] = s[i, j] / max(|sum_j s[i, j]|, 1)

    Args:
      queries, keys, values: of every head.
      input_gate, forget_gate: i and f before exp and sigmoid, capped if the layer
        caps them.

    Examples:
      >>> ones = jnp.ones((1, 4, 1, 2))
      >>> mlstm(ones, ones, ones, ones[..., 0], ones[..., 0]).floor.shape
      (1,)

    References:
      Beck et al., "xLSTM", arXiv 2405.04517, section 2.3, without the epsilon that code
      adds to the divisor.
    """
    return GatedRecurrence(
        queries * keys.shape[-1] ** -0.5,
        keys,
        values,
        jax.nn.log_sigmoid(forget_gate)[..., None],
        log_weights=input_gate,
        floor=jnp.ones(keys.shape[2], keys.dtype),
    )
