"""Sorting tokens by importance, so that the most important come last."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmamba.dynamics.system import TokenSystem, vector_field
from jmamba.models.reordering import AUTOREGRESSIVE, normalise_scores


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
    return normalise_scores(scores) if is_normalised else scores


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
        raise ValueError(AUTOREGRESSIVE)
    x = P @ u
    y = vector_field(system, x)
    if D is not None:
        y = y + D[None] * x
    if restores_order:
        y = P.T @ y
    return Reordered(y * jax.nn.silu(z), P)
