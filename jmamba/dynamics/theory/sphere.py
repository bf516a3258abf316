"""Tokens on the unit sphere: the idealised RMS norm, for Mamba and for attention."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jmamba.dynamics.theory.integration import Flow, integrate

TokenField = Callable[[Float[Array, "l d"]], Float[Array, "l d"]]
"""A velocity of every token."""


def project_to_sphere(
    x: Float[Array, "l d"], v: Float[Array, "l d"]
) -> Float[Array, "l d"]:
    """Return the part of each v[l] that is tangent to the sphere at x[l].

        v - x <x, v> / <x, x>

    Examples:
      >>> project_to_sphere(jnp.array([[1.0, 0.0]]), jnp.array([[3.0, 4.0]])).tolist()
      [[0.0, 4.0]]
    """
    along = jnp.sum(x * v, axis=1, keepdims=True)
    return v - x * along / jnp.sum(x * x, axis=1, keepdims=True)


def attention_field(
    x: Float[Array, "l d"],
    beta: float | Float[Array, ""],
    *,
    is_causal: bool = False,
    is_normalised: bool = True,
) -> Float[Array, "l d"]:
    """Return the velocity of tokens under attention with Q = K = V = 1.

        F[i] = (1 / Z[i]) sum_j exp(beta <x[i], x[j]>) x[j]

    with Z[i] the sum of the exponentials, or the number of tokens if not normalised
    (USA), over j <= i if causal.

    Args:
      x: tokens.
      beta: inverse temperature.
      is_causal: whether tokens see earlier ones only.
      is_normalised: whether the weights add up to 1, as softmax makes them.

    Examples:
      >>> attention_field(jnp.eye(2), 0.0).tolist()
      [[0.5, 0.5], [0.5, 0.5]]

    References:
      Geshkovski et al., "A mathematical perspective on transformers", arXiv 2312.10794,
      SA and USA. Karagodin et al., arXiv 2411.04990, the causal form.
    """
    scores = beta * (x @ x.T)
    if is_causal:
        causal = jnp.tril(jnp.ones(scores.shape, bool))
        scores = jnp.where(causal, scores, -jnp.inf)
    if is_normalised:
        return jax.nn.softmax(scores, axis=1) @ x
    return jnp.exp(scores) @ x / len(x)


def interaction_energy(
    x: Float[Array, "l d"], beta: float | Float[Array, ""]
) -> Float[Array, ""]:
    """Return the energy that attention without a mask never lets decrease.

        E = 1 / (2 beta l^2) sum_ij exp(beta <x[i], x[j]>)

    Under USA, dE/dt is the mean of the squared speeds; under SA they have weights Z.

    Examples:
      >>> round(float(interaction_energy(jnp.ones((3, 1)), 1.0)), 4)  # e / 2
      1.3591

    References:
      Geshkovski et al., arXiv 2312.10794, section 3.
    """
    return jnp.sum(jnp.exp(beta * (x @ x.T))) / (2 * beta * len(x) ** 2)


def flow_on_sphere(
    field: TokenField,
    x: Float[Array, "l d"],
    times: Float[Array, "t"],
    *,
    rtol: float = 1e-9,
    max_steps: int = 100_000,
) -> Flow:
    """Return tokens that move along the tangential part of a field.

        dx[l]/dt = (1 - x[l] x[l]^T) F(x)[l],   |x[l]| = 1

    With `jax.tree_util.Partial(vector_field, system)` this is Mamba on the sphere;
    with Partial(attention_field, beta=1.0) it is self-attention.

    Args:
      field: the velocity before projection.
      x: tokens at the first time; they are brought to length 1.
      times: ascending.
      rtol: tolerance of a step.
      max_steps: steps to try at most.

    Raises:
      ValueError: a token is zero and has no direction.

    Examples:
      >>> x = jnp.array([[1.0, 0.0], [0.6, 0.8]])
      >>> field = lambda x: attention_field(x, 1.0, is_causal=True)
      >>> flow = flow_on_sphere(field, x, jnp.array([0.0, 30.0]), rtol=1e-6)
      >>> [round(float(v), 2) for v in flow.states[1].ravel()]  # the first attracts
      [1.0, 0.0, 1.0, 0.0]

    References:
      Geshkovski et al., arXiv 2312.10794. "Token Dynamics on Spheres in Mamba Models",
      openreview 466gVY2sBQ.
    """
    size = jnp.linalg.norm(x, axis=1, keepdims=True)
    if not bool(jnp.all(size > 0)):
        raise ValueError(
            f"Token {int(jnp.argmin(size))} is zero and has no direction: tokens on "
            "the sphere must have a length that can be brought to 1."
        )
    field = field if isinstance(field, Partial) else Partial(field)
    tangent = Partial(_tangent_field, field)
    return integrate(tangent, x / size, times, rtol=rtol, max_steps=max_steps)


def _tangent_field(field, x):
    # at x / |x|: errors of the integrator do not feed back through the length
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    return project_to_sphere(x, field(x))
