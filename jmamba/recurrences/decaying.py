"""Layers that decay: retention, lightning attention, GLA, HGRN2, RG-LRU, RWKV-6.

Queries, keys and values are those that the layer's projections (convolutions,
activations, rotations) have made; what follows the recurrence (norm, gate) is left out.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmamba.types import GatedRecurrence, Recurrence

Keys = Float[Array, "b l h n"]
Values = Float[Array, "b l h p"]


def retention(queries: Keys, keys: Keys, values: Values) -> Recurrence:
    """Return retention: alpha[i, j] = n^-1/2 (q_i . k_j) gamma^(i-j).

    With gamma = 1 - 2^(-5 - head). The result is an ordinary `Recurrence`, that all
    analyses take.

    Args:
      queries, keys: already rotated by their positions.
      values: of every head.

    Examples:
      >>> ones = jnp.ones((1, 3, 1, 1))
      >>> retention(ones, ones, ones).A.tolist() == [[jnp.log(31 / 32).item()]]
      True

    References:
      Sun et al., "Retentive Network", arXiv 2307.08621, eq. 5 and 8.
    """
    heads = jnp.arange(keys.shape[2], dtype=keys.dtype)
    return _constant_decay(queries, keys, values, jnp.log1p(-(2.0 ** -(5 + heads))))


def lightning_attention(
    queries: Keys, keys: Keys, values: Values, *, layer: int, num_layers: int
) -> Recurrence:
    """Return lightning attention: alpha[i, j] = (q_i . k_j) exp(-s (i - j)).

    With s = 2^(-8 (head + 1) / h) (1 - layer / (num_layers - 1 + 1e-5) + 1e-5), and no
    scale of the queries.

    Args:
      queries, keys, values: of every head.
      layer: which of the model's layers, from 0.
      num_layers: of the model.

    Examples:
      >>> ones = jnp.ones((1, 3, 2, 1))
      >>> found = lightning_attention(ones, ones, ones, layer=0, num_layers=4)
      >>> [round(float(a), 4) for a in found.A[:, 0]]
      [-0.0625, -0.0039]

    References:
      MiniMax, "MiniMax-01", arXiv 2501.08313; the slopes are those of its code.
    """
    heads = keys.shape[2]
    place = jnp.arange(1, heads + 1, dtype=keys.dtype)
    depth = 1 - layer / (num_layers - 1 + 1e-5) + 1e-5
    rates = -(2.0 ** (-8 * place / heads)) * depth
    scaled = queries * keys.shape[-1] ** 0.5  # which is undone below
    return _constant_decay(scaled, keys, values, rates)


def _constant_decay(queries, keys, values, rates) -> Recurrence:
    b, l, h, p = values.shape  # noqa: E741
    return Recurrence(
        values.reshape(b, l, h * p),
        jnp.ones((b, l, h), keys.dtype),
        rates[:, None],
        B=keys,
        C=queries * keys.shape[-1] ** -0.5,
    )


def gated_linear_attention(
    queries: Keys, keys: Keys, values: Values, log_decay: Keys
) -> GatedRecurrence:
    """Return gated linear attention: a decay for every state of a head.

        alpha[i, j] = n^-1/2 sum_n q[i, n] k[j, n] exp(c[i, n] - c[j, n])

    with c the cumulated log_decay, logsigmoid(.) / 16 in the layer.

    Args:
      queries, keys, values: of every head.
      log_decay: at most 0.

    Examples:
      >>> ones = jnp.ones((1, 3, 1, 2))
      >>> gated_linear_attention(ones, ones, ones, -ones).log_decay.shape
      (1, 3, 1, 2)

    References:
      Yang et al., "Gated Linear Attention", arXiv 2312.06635, section 4.
    """
    scale = keys.shape[-1] ** -0.5
    return GatedRecurrence(queries * scale, keys, values, log_decay)


def hgrn2(queries: Keys, forget: Keys, values: Values) -> GatedRecurrence:
    """Return HGRN2: gated linear attention whose keys are what is not kept, 1 - f.

    Args:
      queries: after the activation.
      forget: f, between the layer's lower bound and 1.
      values: of every head.

    Examples:
      >>> half = jnp.full((1, 3, 1, 1), 0.5)
      >>> float(hgrn2(half, half, half).keys[0, 0, 0, 0])
      0.5

    References:
      Qin et al., "HGRN2", arXiv 2404.07904, section 3.
    """
    return gated_linear_attention(queries, 1 - forget, values, jnp.log(forget))


def rg_lru(
    inputs: Float[Array, "b l d"],
    input_gate: Float[Array, "b l d"],
    recurrence_gate: Float[Array, "b l d"],
    Lambda: Float[Array, "d"],
) -> GatedRecurrence:
    """Return Griffin's recurrence: a head with one state for every channel.

        a[t] = exp(-8 r[t] softplus(Lambda)),  y[t] = a[t] y[t-1] + m[t] i[t] u[t]

    with m = sqrt(1 - a^2), and 1 at the first token.

    Args:
      inputs: u, what the convolution puts out.
      input_gate: i, between 0 and 1.
      recurrence_gate: r, between 0 and 1.
      Lambda: of every channel.

    Examples:
      >>> half = jnp.full((1, 3, 2), 0.5)
      >>> rg_lru(half, half, half, jnp.zeros(2)).values.shape
      (1, 3, 2, 1)

    References:
      De et al., "Griffin", arXiv 2402.19427, section 2.4.
    """
    log_decay = -8 * recurrence_gate * jax.nn.softplus(Lambda)[None, None]
    normaliser = jnp.sqrt(-jnp.expm1(2 * log_decay)).at[:, 0].set(1.0)
    return GatedRecurrence(
        jnp.ones_like(inputs)[..., None],
        (normaliser * input_gate)[..., None],
        inputs[..., None],
        log_decay[..., None],
    )


def rwkv6(
    receptance: Keys,
    keys: Keys,
    values: Values,
    log_decay: Keys,
    bonus: Float[Array, "h n"],
) -> GatedRecurrence:
    """Return RWKV-6: a token reads the state first, and its own key with a bonus.

        alpha[i, j] = sum_n r[i, n] k[j, n] exp(c[i-1, n] - c[j, n])    for j < i
        alpha[i, i] = sum_n r[i, n] bonus[n] k[i, n]

    Args:
      receptance: the queries r.
      keys, values: of every head.
      log_decay: -exp(.) in the layer.
      bonus: of every state of a head.

    Examples:
      >>> ones = jnp.ones((1, 3, 1, 2))
      >>> rwkv6(ones, ones, ones, -ones, jnp.ones((1, 2))).bonus.shape
      (1, 2)

    References:
      Peng et al., "Eagle and Finch", arXiv 2404.05892, section 4.
    """
    return GatedRecurrence(receptance, keys, values, log_decay, bonus=bonus)
