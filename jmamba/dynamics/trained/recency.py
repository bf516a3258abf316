"""How influence fades with distance, and how tokens come to look alike in a layer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmamba.ops.meshes import on_any_mesh


class Decay(NamedTuple):
    """An exponential decay of influence, |J[i, j]| = exp(intercept - kappa (i - j)).

    Attributes:
      kappa: rate per token, positive if influence fades.
      intercept: ln of the influence at distance 0.
      curve: mean of ln|J[i, j]| over pairs at each distance 0, 1, ..., -inf if none of
        them has any influence.
    """

    kappa: Float[Array, ""]
    intercept: Float[Array, ""]
    curve: Float[Array, "l"]


@on_any_mesh
@jax.jit
def fit_decay(norms: Float[Array, "l l"]) -> Decay:
    """Fit how the influence of token j on token i fades with their distance.

    Least squares of ln|J[i, j]| over i - j, for all pairs j < i with any influence.
    Pairs j = i are left out: the residual connection makes them what they are.

    Args:
      norms: influences, `jacobian_norms(f, x)` or a hidden attention matrix.

    Examples:
      >>> distance = jnp.arange(5.0)[:, None] - jnp.arange(5.0)[None]
      >>> decay = fit_decay(jnp.exp(-0.7 * distance))
      >>> round(float(decay.kappa), 4)
      0.7

    References:
      Wang et al., "Understanding and mitigating bottlenecks of state space models",
      arXiv 2501.00658, theorem 3.1.
    """
    places = jnp.arange(len(norms))
    distance = places[:, None] - places[None, :]
    used = (distance > 0) & (norms != 0)
    logs = jnp.log(jnp.where(norms != 0, jnp.abs(norms), 1.0))
    x = distance.astype(norms.dtype)
    weight = used.astype(norms.dtype)
    count = jnp.sum(weight)
    mean_x, mean_y = jnp.sum(weight * x) / count, jnp.sum(weight * logs) / count
    centred = weight * (x - mean_x)
    slope = jnp.sum(centred * logs) / jnp.sum(centred * x)

    def at_distance(d):
        here = ((distance == d) & (norms != 0)).astype(norms.dtype)
        total = jnp.sum(here)
        mean = jnp.sum(here * logs) / jnp.maximum(total, 1)
        return jnp.where(total > 0, mean, -jnp.inf)

    curve = jax.vmap(at_distance)(places)
    return Decay(-slope, mean_y - slope * mean_x, curve)


@on_any_mesh
def measure_spread(x: Float[Array, "*b l d"]) -> Float[Array, "*b"]:
    """Return the largest distance between two tokens.

    Examples:
      >>> float(measure_spread(jnp.array([[0.0, 0.0], [3.0, 4.0]])))
      5.0
    """
    differences = x[..., :, None, :] - x[..., None, :, :]
    return jnp.sqrt(jnp.max(jnp.sum(differences**2, axis=-1), axis=(-2, -1)))


@on_any_mesh
def smoothing_bound(
    A_bar: Float[Array, "l d"], x: Float[Array, "l d"]
) -> Float[Array, "d"]:
    """Return a bound of how far apart the outputs of a leaky average can be.

        h[t] = A_bar[t] h[t-1] + (1 - A_bar[t]) x[t],  h[0] = x[0]
        max |h[t] - h[s]| <= (1 - min A_bar^(l-1)) max |x[t] - x[s]|

    Depth brings tokens together, unless the decay is fast.

    Args:
      A_bar: decays, between 0 and 1; the first is not used.
      x: inputs.

    Examples:
      >>> x = jnp.array([[0.0], [1.0], [4.0]])
      >>> smoothing_bound(jnp.full((3, 1), 0.5), x).tolist()
      [3.0]

    References:
      Wang et al., arXiv 2501.00658, theorem 4.2.
    """
    least = jnp.min(A_bar[1:], axis=0, initial=1.0)
    span = jnp.max(x, axis=0) - jnp.min(x, axis=0)
    return (1 - least ** (len(x) - 1)) * span


@on_any_mesh
def leaky_average(
    A_bar: Float[Array, "l d"], x: Float[Array, "l d"]
) -> Float[Array, "l d"]:
    """Return h[t] = A_bar[t] h[t-1] + (1 - A_bar[t]) x[t] with h[0] = x[0].

    Examples:
      >>> leaky_average(jnp.full((2, 1), 0.5), jnp.array([[0.0], [1.0]])).tolist()
      [[0.0], [0.5]]
    """

    def combine(a, b):
        return a[0] * b[0], b[0] * a[1] + b[1]

    A_bar = A_bar.at[0].set(0.0)
    return jax.lax.associative_scan(combine, (A_bar, (1 - A_bar) * x))[1]
