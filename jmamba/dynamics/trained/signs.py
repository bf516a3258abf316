"""Signs and sizes that decide the scenario, measured on a text."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jmamba.ops import selective_scan
from jmamba.types import SSMInputs


class SignStatistics(NamedTuple):
    """What of a layer expands or contracts, and how fast, on given tokens.

    Attributes:
      own: fraction of tokens i with C[i].B[i] > 0.
      earlier: fraction of pairs j < i with C[i].B[j] > 0; NaN for a single token.
      weighted: mean sign of C[i].B[j] over j <= i and channels, each with its weight
        delta[j] exp(A sum delta), A being the channel's mean rate.
      fast: fraction of tokens and channels with a positive pre-activation of delta.
      mean_delta: mean step size.
      growth: y.u / |u|^2 over tokens, per channel: the rate mu G of the theory.
    """

    own: Float[Array, "b"]
    earlier: Float[Array, "b"]
    weighted: Float[Array, "b"]
    fast: Float[Array, "b"]
    mean_delta: Float[Array, "b"]
    growth: Float[Array, "b d"]


@jax.jit
def measure_signs(ssm: SSMInputs) -> SignStatistics:
    """Return the statistics of a layer on a text.

    The signs of C[i].B[j] play the part of the sign of mu, those of the argument of
    softplus (delta > ln 2) the part of the sign of S_delta x.

    Args:
      ssm: selective parameters of a layer, `trace(...).layer(i)`.

    Examples:
      >>> one = jnp.ones((1, 2, 1))
      >>> ssm = SSMInputs(one, one, -one[0, :1], one, one, one[0, 0], one, one)
      >>> statistics = measure_signs(ssm)
      >>> float(statistics.own[0]), float(statistics.fast[0])
      (1.0, 1.0)

    References:
      Vo et al., arXiv 2410.03292, sections 4 and 5, on data instead of weights alone.
    """
    dtype = ssm.delta.dtype
    u, B, C = (x.astype(dtype) for x in (ssm.u, ssm.B, ssm.C))
    length = u.shape[1]
    sign = jnp.sign(jnp.einsum("bin,bjn->bij", C, B, precision="highest"))
    positive = (sign > 0).astype(dtype)
    below = jnp.tril(jnp.ones((length, length), dtype), -1)[None]
    pairs = jnp.asarray(length * (length - 1) / 2, dtype)
    y, _ = selective_scan(u, ssm.delta, ssm.A, B, C)
    return SignStatistics(
        own=jnp.mean(jnp.diagonal(positive, axis1=1, axis2=2), axis=1),
        earlier=jnp.sum(positive * below, axis=(1, 2)) / pairs,
        weighted=_weighted_sign(sign, ssm.delta, jnp.mean(ssm.A, axis=1)),
        fast=jnp.mean((ssm.delta > jnp.log(2.0)).astype(dtype), axis=(1, 2)),
        mean_delta=jnp.mean(ssm.delta, axis=(1, 2)),
        growth=jnp.sum(y * u, axis=1) / jnp.sum(u * u, axis=1),
    )


def _weighted_sign(sign, delta, A):
    """Average signs with weights delta[j] exp(A (S[i] - S[j])), a channel at a time."""
    S = jnp.cumsum(delta, axis=1)
    length = delta.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))[None]

    def add(total, channel):
        S, delta, A = channel
        elapsed = jnp.where(causal, S[:, :, None] - S[:, None, :], 0.0)
        weight = jnp.where(causal, jnp.exp(A * elapsed) * delta[:, None, :], 0.0)
        signed, all_ = total
        return (
            signed + jnp.sum(weight * sign, axis=(1, 2)),
            all_ + jnp.sum(weight, axis=(1, 2)),
        ), None

    by_channel = (jnp.moveaxis(S, 2, 0), jnp.moveaxis(delta, 2, 0), A)
    zero = jnp.zeros(delta.shape[0], delta.dtype)
    (signed, all_), _ = jax.lax.scan(add, (zero, zero), by_channel)
    return signed / all_


class RegimeMap(NamedTuple):
    """The regime of every token and channel of a layer.

    Attributes:
      expands: whether the mean of C[i].B[j] over j <= i is positive, per token.
      fast: whether the pre-activation of the step size is positive.
    """

    expands: Bool[Array, "b l"]
    fast: Bool[Array, "b l d"]


@jax.jit
def map_regimes(ssm: SSMInputs) -> RegimeMap:
    """Label tokens as contracting or expanding, and their channels as slow or fast.

    Args:
      ssm: selective parameters of a layer, `trace(...).layer(i)`.

    Examples:
      >>> one = jnp.ones((1, 2, 1))
      >>> ssm = SSMInputs(one, one / 2, -one[0, :1], one, -one, one[0, 0], one, one)
      >>> regimes = map_regimes(ssm)
      >>> regimes.expands.tolist(), regimes.fast[0, 0].tolist()
      ([[False, False]], [False])

    References:
      Vo et al., arXiv 2410.03292, section 4: the signs of mu and of S_delta x.
    """
    dtype = ssm.delta.dtype
    B_sum = jnp.cumsum(ssm.B.astype(dtype), axis=1)
    q = jnp.einsum("bln,bln->bl", ssm.C.astype(dtype), B_sum)
    return RegimeMap(q > 0, ssm.delta > jnp.log(2.0))
