"""Signs and sizes that decide the scenario, measured on a text."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jmamba.layers.recurrence import run_recurrence
from jmamba.ops.meshes import on_any_mesh
from jmamba.types import Recurrence


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


@on_any_mesh
@jax.jit
def measure_signs(recurrence: Recurrence) -> SignStatistics:
    """Return the statistics of a layer on a text.

    The signs of C[i].B[j] play the part of the sign of mu, those of the argument of
    softplus (delta > ln 2) the part of the sign of S_delta x.

    Args:
      recurrence: of a layer, `trace(...).layer(i)`.

    Examples:
      >>> one = jnp.ones((1, 2, 1))
      >>> gates = one[:, :, None]
      >>> recurrence = Recurrence(one, one, -one[0, :1], gates, gates)
      >>> statistics = measure_signs(recurrence)
      >>> float(statistics.own[0]), float(statistics.fast[0])
      (1.0, 1.0)

    References:
      Vo et al., arXiv 2410.03292, sections 4 and 5, on data instead of weights alone.
    """
    dtype = recurrence.delta.dtype
    u, B, C = (x.astype(dtype) for x in (recurrence.u, recurrence.B, recurrence.C))
    length = u.shape[1]
    sign = jnp.sign(jnp.einsum("bign,bjgn->gbij", C, B, precision="highest"))
    positive = (sign > 0).astype(dtype)
    below = jnp.tril(jnp.ones((length, length), dtype), -1)[None, None]
    pairs = jnp.asarray(len(sign) * length * (length - 1) / 2, dtype)
    y, _ = run_recurrence(recurrence._replace(u=u, B=B, C=C, D=None))
    return SignStatistics(
        own=jnp.mean(jnp.diagonal(positive, axis1=2, axis2=3), axis=(0, 2)),
        earlier=jnp.sum(positive * below, axis=(0, 2, 3)) / pairs,
        weighted=_weighted_sign(sign, recurrence.delta, jnp.mean(recurrence.A, axis=1)),
        fast=jnp.mean((recurrence.delta > jnp.log(2.0)).astype(dtype), axis=(1, 2)),
        mean_delta=jnp.mean(recurrence.delta, axis=(1, 2)),
        growth=jnp.sum(y * u, axis=1) / jnp.sum(u * u, axis=1),
    )


def _weighted_sign(sign, delta, A):
    """Average signs with weights delta[j] exp(A (S[i] - S[j])), a head at a time."""
    S = jnp.cumsum(delta, axis=1)
    length, heads = delta.shape[1:]
    causal = jnp.tril(jnp.ones((length, length), bool))[None]
    group = jnp.arange(heads) // (heads // len(sign))

    def add(total, head):
        S, delta, A, group = head
        own = sign[0] if len(sign) == 1 else sign[group]
        elapsed = jnp.where(causal, S[:, :, None] - S[:, None, :], 0.0)
        weight = jnp.where(causal, jnp.exp(A * elapsed) * delta[:, None, :], 0.0)
        signed, all_ = total
        return (
            signed + jnp.sum(weight * own, axis=(1, 2)),
            all_ + jnp.sum(weight, axis=(1, 2)),
        ), None

    by_head = (jnp.moveaxis(S, 2, 0), jnp.moveaxis(delta, 2, 0), A, group)
    zero = jnp.zeros(delta.shape[0], delta.dtype)
    (signed, all_), _ = jax.lax.scan(add, (zero, zero), by_head)
    return signed / all_


class RegimeMap(NamedTuple):
    """The regime of every token and channel of a layer.

    Attributes:
      expands: whether the mean of C[i].B[j] over j <= i is positive, per token.
      fast: whether the pre-activation of the step size is positive.
    """

    expands: Bool[Array, "b l"]
    fast: Bool[Array, "b l h"]


@on_any_mesh
@jax.jit
def map_regimes(recurrence: Recurrence) -> RegimeMap:
    """Label tokens as contracting or expanding, and their channels as slow or fast.

    Args:
      recurrence: of a layer, `trace(...).layer(i)`.

    Examples:
      >>> one = jnp.ones((1, 2, 1))
      >>> gates = one[:, :, None]
      >>> recurrence = Recurrence(one, one / 2, -one[0, :1], gates, -gates)
      >>> regimes = map_regimes(recurrence)
      >>> regimes.expands.tolist(), regimes.fast[0, 0].tolist()
      ([[False, False]], [False])

    References:
      Vo et al., arXiv 2410.03292, section 4: the signs of mu and of S_delta x.
    """
    dtype = recurrence.delta.dtype
    B_sum = jnp.cumsum(recurrence.B.astype(dtype), axis=1)
    q = jnp.einsum("blgn,blgn->bl", recurrence.C.astype(dtype), B_sum)
    return RegimeMap(q > 0, recurrence.delta > jnp.log(2.0))
