"""Layers of the delta rule: DeltaNet, Gated DeltaNet, KDA, RWKV-7.

Each takes away what the state holds under a key before it writes there. Queries, keys
and values are those that the layer's projections and convolutions have made; what
follows the recurrence (norm, gate) is left out.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jmamba.types import GatedRecurrence

Keys = Float[Array, "b l h n"]
Values = Float[Array, "b l h p"]
Heads = Float[Array, "b l h"]


def delta_net(
    queries: Keys, keys: Keys, values: Values, beta: Heads
) -> GatedRecurrence:
    """Return DeltaNet: S[t] = (I - beta k k^T) S[t-1] + beta k v^T.

    Args:
      queries, keys: divided here by their length, queries also by sqrt(n).
      values: of every head.
      beta: how much is written, from 0 to 1 (2 where states may turn).

    Examples:
      >>> ones = jnp.ones((1, 3, 1, 2))
      >>> float(delta_net(ones, ones, ones, jnp.ones((1, 3, 1))).log_decay[0, 0, 0, 0])
      0.0

    References:
      Yang et al., arXiv 2406.06484, section 3.
    """
    return gated_delta_net(queries, keys, values, beta, jnp.zeros_like(beta))


def gated_delta_net(
    queries: Keys, keys: Keys, values: Values, beta: Heads, log_decay: Heads
) -> GatedRecurrence:
    """Return Gated DeltaNet: S[t] = a (I - beta k k^T) S[t-1] + beta k v^T.

    Args:
      queries, keys, values, beta: as in `delta_net`.
      log_decay: log a of every head, -exp(A_log) softplus(.) in the layer.

    Examples:
      >>> ones = jnp.ones((1, 3, 1, 2))
      >>> beta = jnp.ones((1, 3, 1))
      >>> gated_delta_net(ones, ones, ones, beta, -beta).log_decay.shape
      (1, 3, 1, 1)

    References:
      Yang, Kautz & Hatamizadeh, "Gated Delta Networks", arXiv 2412.06464, eq. 10.
    """
    return kimi_delta_attention(queries, keys, values, beta, log_decay[..., None])


def kimi_delta_attention(
    queries: Keys,
    keys: Keys,
    values: Values,
    beta: Heads,
    log_decay: Float[Array, "b l h rates"],
) -> GatedRecurrence:
    """Return Kimi delta attention: S[t] = (I - beta k k^T) diag(a) S[t-1] + beta k v^T.

    The erasure reads the decayed state.

    Args:
      queries, keys, values, beta: as in `delta_net`.
      log_decay: log a, of every state of a head.

    Examples:
      >>> ones = jnp.ones((1, 3, 1, 2))
      >>> kimi_delta_attention(ones, ones, ones, ones[..., 0], -ones).keys.shape
      (1, 3, 1, 2)

    References:
      Kimi Team, "Kimi Linear", arXiv 2510.26692, section 3.
    """
    keys = unit(keys)
    return GatedRecurrence(
        unit(queries) * keys.shape[-1] ** -0.5,
        beta[..., None] * keys,
        values,
        log_decay,
        erase_reads=keys,
    )


def rwkv7(
    receptance: Keys,
    log_decay: Keys,
    keys: Keys,
    values: Values,
    removal: Keys,
    learning_rate: Keys,
) -> GatedRecurrence:
    """Return RWKV-7: S[t] = (diag(w) - (kappa a) kappa^T) S[t-1] + k v^T.

    The erasure reads the state before its decay, which is the other form with kappa / w
    in place of kappa. The layer adds (sum_n r k bonus) v behind, which is no part here.

    Args:
      receptance: the queries r.
      log_decay: log w, at least -0.6065307 in the layer.
      keys: what is written, k(1 + (a - 1) k_a) in the layer.
      values: of every head.
      removal: kappa, divided here by its length.
      learning_rate: a, in the context, from 0 to 1.

    Examples:
      >>> ones = jnp.ones((1, 3, 1, 2))
      >>> rwkv7(ones, -0.5 * ones, ones, ones, ones, ones).erase_reads.shape
      (1, 3, 1, 2)

    References:
      Peng et al., "RWKV-7 Goose", arXiv 2503.14456, section 4.
    """
    kappa = unit(removal)
    return GatedRecurrence(
        receptance,
        keys,
        values,
        log_decay,
        erase_writes=kappa * learning_rate,
        erase_reads=kappa * jnp.exp(-log_decay),
    )


def unit(x: Float[Array, "*x n"]) -> Float[Array, "*x n"]:
    """Return x / sqrt(|x|^2 + 1e-6) over the last axis, as the layers' code has it.

    Examples:
      >>> [round(float(x), 3) for x in unit(jnp.array([3.0, 4.0]))]
      [0.6, 0.8]
    """
    return x / jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-6)
