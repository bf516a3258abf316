"""Convergence and slow divergence: tokens in ln t, over hundreds of decades."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jmamba.dynamics.theory.blow_ups import blow_up
from jmamba.dynamics.theory.integration import integrate
from jmamba.dynamics.theory.scalar_system import ScalarSystem, log_velocity
from jmamba.dynamics.theory.scenarios import (
    check_finished,
    check_float64,
    classify_scenario,
)


def convergence_bound(
    system: ScalarSystem, x: Float[Array, "l"], times: Float[Array, "t"]
) -> Float[Array, "t l"]:
    """Return a bound of |x(t)| that holds at all times if mu < 0.

        |x[l](t)| <= (x[l]^-2 + 2 |mu| softplus(bias - |s x[l]|) t)^(-1/2)

    Examples:
      >>> system = ScalarSystem(mu=-1.0, s=0.0)
      >>> bound = convergence_bound(system, jnp.ones(1), jnp.array([0.0, 1e4]))
      >>> [round(float(v), 4) for v in bound[:, 0]]
      [1.0, 0.0085]

    References:
      Vo et al., arXiv 2410.03292, theorem on convergence, with explicit constants.
    """
    delta = jax.nn.softplus(system.bias - jnp.abs(system.s * x))
    rate = 2 * jnp.abs(jnp.asarray(system.mu, x.dtype)) * delta
    inverse = x[None, :] ** -2 + rate[None, :] * times[:, None]
    return inverse**-0.5


def convergence_constants(
    system: ScalarSystem, x: Float[Array, "l"]
) -> Float[Array, "l"]:
    """Return the limits of `sqrt(t) |x[l](t)|` for mu < 0.

        (2 |mu| delta0)^(-1/2) for the first token that is not zero, and
        ((1 - exp(-a delta0 gap)) / (2 |mu| delta0))^(1/2) for every later one,

    with delta0 = softplus(bias) and gap the distance to the last token that is not
    zero, 1 as a rule. Neither the place nor the initial values matter.

    Examples:
      >>> system = ScalarSystem(mu=-0.8, s=1.5)
      >>> limits = convergence_constants(system, jnp.array([1.0, -0.5, 2.0]))
      >>> [round(float(v), 4) for v in limits]
      [0.9496, 0.6714, 0.6714]

    References:
      A sharp form of Vo et al., arXiv 2410.03292, theorem on convergence: with
      x[l]^2 ~ c[l] / t the sums over j <= l of exp(-a delta0 (l - j)) c[j] are equal.
    """
    delta = jax.nn.softplus(jnp.asarray(system.bias, x.dtype))
    first = (2 * jnp.abs(jnp.asarray(system.mu, x.dtype)) * delta) ** -0.5
    places = jnp.arange(len(x))
    last = jax.lax.cummax(jnp.where(x != 0, places, -1))
    last = jnp.concatenate([jnp.full(1, -1, last.dtype), last[:-1]])
    gap = jnp.where(last < 0, jnp.inf, (places - last).astype(x.dtype))
    limits = first * jnp.sqrt(-jnp.expm1(-system.a * delta * gap))
    return jnp.where(x == 0, 0.0, limits)


def flow_in_log_time(
    system: ScalarSystem,
    x: Float[Array, "l"],
    log_times: Float[Array, "t"],
    *,
    rtol: float = 1e-11,
) -> Float[Array, "t l"]:
    """Return tokens at times exp(log_times), which may be as late as e^690.

    Integrates ln|x| over ln(1 + t); for convergence and slow divergence.

    Args:
      system: the system, mu < 0 or s x < 0 for all tokens.
      x: tokens at time 0, float64.
      log_times: ascending.
      rtol: error of ln|x| per step.

    Raises:
      ValueError: the tokens blow up in finite time, or are not float64, or rtol is
        smaller than rounding allows.

    Examples:
      >>> from jmamba.dynamics import enable_x64
      >>> with enable_x64():
      ...     x = flow_in_log_time(ScalarSystem(mu=1.0, s=-1.0), jnp.full(2, 0.5),
      ...         jnp.array([10.0]))
      >>> [round(float(v), 3) for v in x[0]]
      [18.574, 66.013]

    References:
      Vo et al., arXiv 2410.03292, section 4.
    """
    check_float64(x)
    if classify_scenario(system, x).regime == "fast divergence":
        raise ValueError(
            f"These tokens blow up at t = {float(blow_up(system, x).time):.6g}, before "
            "the times asked for. Take blow_up(system, x) for what happens then."
        )
    field = Partial(_log_time_field, system, jnp.sign(x))
    start = jnp.concatenate([jnp.zeros(1, x.dtype), jnp.log(jnp.abs(x))])
    clock = jnp.logaddexp(0.0, log_times)  # ln(1 + t)
    clock = jnp.concatenate([jnp.zeros(1, x.dtype), clock])
    flow = integrate(field, start, clock, rtol=0.0, atol=rtol)
    check_finished(flow.is_finished, rtol)
    return jnp.sign(x)[None] * jnp.exp(flow.states[1:, 1:])


def _log_time_field(system, signs, state):
    clock, w = state[0], state[1:]
    # mu e^clock would overflow where G is tiny: G first
    rates = jnp.exp(clock) * log_velocity(system, w, signs)
    return jnp.concatenate([jnp.ones(1, w.dtype), rates])


def log_time_bound(
    x: Float[Array, "l"], log_times: Float[Array, "t"]
) -> Float[Array, "t l"]:
    """Return (ln t)^l with l counted from 1: an upper bound of slow divergence's order.

    It bounds the growth, up to a constant, and is not the growth: all tokens grow like
    ln t, and only the ratios between them differ.

    Examples:
      >>> log_time_bound(jnp.ones(2), jnp.array([3.0])).tolist()
      [[3.0, 9.0]]

    References:
      Vo et al., arXiv 2410.03292, theorem on slow divergence.
    """
    places = jnp.arange(1, len(x) + 1, dtype=x.dtype)
    return log_times[:, None] ** places[None, :]
