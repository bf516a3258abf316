"""Sorting tokens by importance, so that the most important come last."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from jmamba.dynamics.system import TokenSystem, vector_field


def importance_scores(
    system: TokenSystem,
    u: Float[Array, "l d"],
    weights: Float[Array, "d"] | None = None,
    *,
    is_normalised: bool = False,
) -> Float[Array, "l"]:
    """Return one score per token, from what its step sizes are made of.

        s[l] = K . (S_delta u[l])

    The bias of the step sizes would add the same to all scores.

    Args:
      system: `layer_system(model, i)`, or a layer of an encoder.
      u: inputs of the recurrence.
      weights: K, learned; None for the mean over channels.
      is_normalised: whether scores get mean 0 and deviation 1, so that sorting with
        tau = 1 tells tokens apart also at the start of training, when scores are all
        about the same.

    Examples:
      >>> eye = jnp.eye(2)
      >>> system = TokenSystem(eye, eye, eye, -eye, jnp.zeros(2))
      >>> importance_scores(system, jnp.array([[1.0, 2.0], [4.0, 0.0]])).tolist()
      [1.5, 2.0]

    References:
      Vo et al., arXiv 2410.03292, section 5.2.
    """
    pre = jnp.einsum("ld,ed->le", u, system.S_delta)
    scores = jnp.mean(pre, axis=1) if weights is None else pre @ weights
    if not is_normalised:
        return scores
    centred = scores - jnp.mean(scores)
    tiny = jnp.finfo(scores.dtype).tiny
    return centred / jnp.maximum(jnp.sqrt(jnp.mean(centred**2)), tiny)


def soft_sort(
    scores: Float[Array, "l"],
    *,
    tau: float | Float[Array, ""] = 1.0,
    power: float = 1.0,
    is_hard: bool = False,
) -> Float[Array, "l l"]:
    """Return a matrix whose row k picks the token with the k-th smallest score.

        P[k, j] = softmax_j(-|sorted[k] - s[j]|^power / tau)

    Rows add up to 1. P tends to a permutation as tau goes to 0; hard, it is that
    permutation (ties keep their order), with the soft matrix's derivative.

    Args:
      scores: importance of each token.
      tau: temperature.
      power: of the distance.
      is_hard: whether to use the permutation itself.

    Raises:
      ValueError: tau is not positive.

    Examples:
      >>> P = soft_sort(jnp.array([0.1, 0.5, -0.3]), is_hard=True)
      >>> jnp.argmax(P, axis=1).tolist()
      [2, 0, 1]

    References:
      Prillo & Eisenschlos, "SoftSort", ICML 2020; Vo et al., arXiv 2410.03292,
      section 5.2: in order of increasing importance.
    """
    if not isinstance(tau, Tracer) and not float(tau) > 0:
        raise ValueError(f"tau={float(tau)}: give a positive one, or is_hard=True.")
    order = jnp.argsort(scores, stable=True)
    distance = jnp.abs(scores[order][:, None] - scores[None, :])
    if power != 1.0:
        distance = distance**power
    soft = jax.nn.softmax(-distance / tau, axis=1)
    if not is_hard:
        return soft
    hard = jax.nn.one_hot(order, len(scores), dtype=scores.dtype)
    return jax.lax.stop_gradient(hard - soft) + soft


def anneal_tau(
    step: Float[Array, ""], steps: int, *, start: float = 1.0, end: float = 0.01
) -> Float[Array, ""]:
    """Return a temperature that falls geometrically from start to end.

    Examples:
      >>> round(float(anneal_tau(jnp.array(50.0), 100)), 4)
      0.1
    """
    share = jnp.clip(step / steps, 0.0, 1.0)
    return start * (end / start) ** share


def remaining_variance(
    P: Float[Array, "l l"], x: Float[Array, "l d"]
) -> Float[Array, ""]:
    """Return the variance of reordered tokens over that of the tokens.

    1 for a permutation; near 0 where P is flat and all tokens became their mean, as
    with tau = 1 and the small scores of a fresh model.

    Examples:
      >>> x = jnp.array([[1.0], [2.0], [6.0]])
      >>> float(remaining_variance(jnp.eye(3)[::-1], x))
      1.0
      >>> float(remaining_variance(jnp.full((3, 3), 1 / 3), x)) < 1e-12
      True
    """

    def scatter(x):
        return jnp.sum((x - jnp.mean(x, axis=0, keepdims=True)) ** 2)

    return scatter(P @ x) / scatter(x)


class Reordered(NamedTuple):
    """Outputs of a reordered layer, and the matrix that reordered its tokens."""

    y: Float[Array, "l d"]
    P: Float[Array, "l l"]


def reordered_scan(
    system: TokenSystem,
    u: Float[Array, "l d"],
    z: Float[Array, "l d"],
    P: Float[Array, "l l"],
    *,
    is_autoregressive: bool,
    restores_order: bool = True,
    D: Float[Array, "d"] | None = None,
) -> Reordered:
    """Run a layer's recurrence on reordered tokens.

        y = F(P u) + D P u,  then (P^T y) silu(z), or y silu(z) if not restored

    Gates and step sizes are made anew from P u. The official code does not put tokens
    back: it multiplies token k in the new order with the gate of, and adds it to the
    residual stream at, token k in the old one.

    Args:
      system: the layer.
      u: inputs of the recurrence.
      z: the gate's argument.
      P: `soft_sort(scores, ...)`.
      is_autoregressive: whether the layer is to predict what comes next: sorting
        lets later tokens decide where earlier ones stand.
      restores_order: False for the official mode.
      D: skip weights; None for none.

    Raises:
      ValueError: the layer is autoregressive.

    Examples:
      >>> eye = jnp.eye(2)
      >>> system = TokenSystem(eye, eye, eye, -eye, jnp.zeros(2))
      >>> u = jnp.array([[1.0, 2.0], [4.0, 0.0]])
      >>> y, _ = reordered_scan(system, u, u, eye, is_autoregressive=False)
      >>> bool(jnp.allclose(y, vector_field(system, u) * jax.nn.silu(u)))
      True

    References:
      Vo et al., arXiv 2410.03292, section 5.2, and its official code.
    """
    if is_autoregressive:
        raise ValueError(
            "Reordering needs all tokens at once: in an autoregressive model it would "
            "let later tokens change earlier outputs. Use it in an encoder, with "
            "is_autoregressive=False, or take importance_scores(...) for analysis."
        )
    x = P @ u
    y = vector_field(system, x)
    if D is not None:
        y = y + D[None] * x
    if restores_order:
        y = P.T @ y
    return Reordered(y * jax.nn.silu(z), P)
