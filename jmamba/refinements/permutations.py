"""Sorting tokens: matrices that put the most important ones last."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

AUTOREGRESSIVE = (
    "Reordering needs all tokens at once: in an autoregressive model it would let "
    "later tokens change earlier outputs. Use it in an encoder, with "
    "is_autoregressive=False, or take importance_scores(...) for analysis."
)
"""Why no language model can have it."""


def normalise_scores(scores: Float[Array, "l"]) -> Float[Array, "l"]:
    """Return scores with mean 0 and deviation 1; equal ones become 0.

    Examples:
      >>> normalise_scores(jnp.array([2.0, 4.0])).tolist()
      [-1.0, 1.0]
    """
    centred = scores - jnp.mean(scores)
    variance = jnp.mean(centred**2)
    # a constant row has no deviation to divide by, nor a derivative of it
    safe = jnp.where(variance > 0, variance, 1)
    return centred * jax.lax.rsqrt(safe)


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
    return hard + (soft - jax.lax.stop_gradient(soft))  # hard to the last bit


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


def keep_place(
    P: Float[Array, "*b l l"], place: int | None
) -> Float[Array, "*b l+1 l+1"] | Float[Array, "*b l l"]:
    """Return the matrix that also lets one more token stay at its place.

    Args:
      P: reorders all other tokens.
      place: of that token, in the sequence with it; None for no such token.

    Examples:
      >>> swap = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> keep_place(swap, 1).tolist()
      [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    if place is None:
        return P
    own = np.zeros(P.shape[-1] + 1)
    own[place] = 1
    row = jnp.broadcast_to(jnp.asarray(own, P.dtype), (*P.shape[:-2], 1, len(own)))
    column = jnp.zeros((*P.shape[:-1], 1), P.dtype)
    P = jnp.concatenate([P[..., :place], column, P[..., place:]], axis=-1)
    return jnp.concatenate([P[..., :place, :], row, P[..., place:, :]], axis=-2)


def shuffled_order(length: int, seed: int) -> Float[np.ndarray, "l l"]:
    """Return a permutation matrix that depends on the length and the seed alone.

    It comes from numpy's legacy generator, whose numbers are frozen for good: a saved
    model means the same permutation everywhere.

    Examples:
      >>> shuffled_order(3, seed=1).tolist()
      [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    order = np.random.RandomState([seed, length]).permutation(length)
    return np.eye(length)[order]
