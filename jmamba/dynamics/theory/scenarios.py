"""The three scenarios of the one-dimensional system: convergence, two divergences."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jmamba.dynamics.theory.scalar_system import ScalarSystem


class Scenario(NamedTuple):
    """What will become of the tokens.

    Attributes:
      regime: "convergence" (all go to zero), "slow divergence" (all grow like ln t),
        "fast divergence" (some blow up in finite time), or "equilibrium" (none moves).
      times_alone: when each token would blow up if it were alone, infinity if never;
        the system blows up at the earliest of them or before.
    """

    regime: str
    times_alone: Float[np.ndarray, "l"]


def classify_scenario(system: ScalarSystem, x: Float[Array, "l"]) -> Scenario:
    """Say which of the scenarios tokens x are in.

        mu < 0                          convergence
        mu > 0, s x[l] < 0 for all l    slow divergence
        mu > 0, s x[l] >= 0 for some l  fast divergence

    among tokens other than zero, which stay there.

    Args:
      system: the system.
      x: tokens at time 0.

    Raises:
      ValueError: something is not finite, or the decay rate is not positive.

    Examples:
      >>> x = jnp.array([0.5, -0.5])
      >>> classify_scenario(ScalarSystem(mu=-1.0, s=1.0), x).regime
      'convergence'
      >>> classify_scenario(ScalarSystem(mu=1.0, s=1.0), x).regime
      'fast divergence'
      >>> classify_scenario(ScalarSystem(mu=1.0, s=-1.0), x[:1]).regime
      'slow divergence'

    References:
      Vo et al., arXiv 2410.03292, theorems of section 4. With s = 0 step sizes are
      constant and tokens blow up, too: |x| = (2 mu delta (T - t))^(-1/2).
    """
    check_scalar(system, x)
    mu, moving = float(system.mu), np.asarray(x) != 0
    times = np.asarray(jax.vmap(lambda x: time_alone(system, x))(x))
    if mu == 0 or not moving.any():
        regime = "equilibrium"
    elif mu < 0:
        regime = "convergence"
    elif bool(blows_up(system, x)):
        regime = "fast divergence"
    else:
        regime = "slow divergence"
    return Scenario(regime, times)


def check_scalar(system: ScalarSystem, x) -> None:
    """Raise unless all numbers are finite and the decay rate is positive."""
    if not np.all(np.isfinite(np.asarray([*map(float, system)]))):
        raise ValueError(f"{system}: all four numbers must be finite.")
    if not float(system.a) > 0:
        raise ValueError(f"{system}: the decay rate a must be positive.")
    if not np.all(np.isfinite(np.asarray(x))):
        raise ValueError(f"Tokens must be finite, but are {np.asarray(x)}.")


def time_alone(system: ScalarSystem, x: Float[Array, ""]) -> Float[Array, ""]:
    """Return when a token would blow up if it were alone; infinity if never.

        T = integral from |x| to infinity of du / (mu u^3 softplus(s sgn(x) u + bias))

    Args:
      system: the system.
      x: the token at time 0.

    Examples:
      >>> round(float(time_alone(ScalarSystem(1.0, 1.0), jnp.array(1.5))), 5)
      0.09234
      >>> float(time_alone(ScalarSystem(1.0, 1.0), jnp.array(-1.5)))
      inf

    References:
      Separation of variables in Vo et al., arXiv 2410.03292, section 4, first token.
    """
    nodes, weights = np.polynomial.legendre.leggauss(128)
    # u = |x| / v turns the tail into 0 < v < 1, where the integrand is smooth
    v = jnp.asarray((nodes + 1) / 2, x.dtype)
    pre = system.s * x / v + system.bias
    ends = (system.mu > 0) & (x != 0) & (system.s * x >= 0)
    delta = jax.nn.softplus(jnp.where(ends, pre, 0.0))
    integral = jnp.sum(jnp.asarray(weights / 2, x.dtype) * v / delta)
    mu, size = jnp.where(ends, system.mu, 1.0), jnp.where(ends, abs(x), 1.0)
    return jnp.where(ends, integral / (mu * size**2), jnp.inf)


def blows_up(system: ScalarSystem, x: Float[Array, "l"]) -> Bool[Array, ""]:
    """Return whether some token goes to infinity in finite time."""
    return jnp.any((system.s * x >= 0) & (x != 0)) & (jnp.asarray(system.mu) > 0)


def check_float64(x) -> None:
    """Raise unless tokens are float64, which these regimes need."""
    if x.dtype != jnp.float64:
        raise ValueError(
            f"Tokens are {x.dtype}, but times and sizes here span hundreds of decades: "
            "give float64 ones, inside `with jmamba.dynamics.enable_x64():` or after "
            "jax.config.update('jax_enable_x64', True)."
        )


def check_finished(is_finished, rtol: float) -> None:
    """Raise unless an integration came to its end."""
    if not bool(is_finished):
        raise ValueError(
            f"The integration did not come to its end with rtol={rtol:g}; give a "
            "larger one, such as 1e-11."
        )
