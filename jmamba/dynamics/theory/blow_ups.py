"""Fast divergence: when tokens go to infinity, and who takes them there."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jmamba.dynamics.theory.integration import integrate
from jmamba.dynamics.theory.scalar_system import ScalarSystem, log_velocity
from jmamba.dynamics.theory.scenarios import (
    blows_up,
    check_finished,
    check_float64,
    classify_scenario,
)

ESCAPE = 1e8
"""A token this far away is treated as being at infinity."""


class BlowUp(NamedTuple):
    """When tokens go to infinity, and who takes them there.

    Attributes:
      time: the first time T at which a token is infinite.
      token: the first token that is; those before it are finite at T and go on, those
        after it are infinite at T, too.
      x: tokens at T, as far as the integration went: beyond `ESCAPE` means infinity.
    """

    time: Float[Array, ""]
    token: int
    x: Float[Array, "l"]


def blow_up(
    system: ScalarSystem,
    x: Float[Array, "l"],
    *,
    escape: float = ESCAPE,
    rtol: float = 1e-12,
) -> BlowUp:
    """Return when and where tokens first go to infinity.

    Time is counted by growth, dt = d sigma / max_l mu G[l], so that a step is a factor
    of |x|, however close the singularity.

    Args:
      system: the system.
      x: tokens at time 0, float64.
      escape: size at which the rest of the way is taken from the asymptotic law.
      rtol: error of ln|x| per step.

    Raises:
      ValueError: no token ever blows up, or tokens are not float64, or rtol is
        smaller than rounding allows.

    Examples:
      >>> from jmamba.dynamics import enable_x64
      >>> with enable_x64():
      ...     end = blow_up(ScalarSystem(1.0, 1.0), jnp.array([0.5, 0.6, 0.4, 0.7]))
      >>> round(float(end.time), 6), end.token
      (0.649849, 3)

    References:
      Vo et al., arXiv 2410.03292, theorem on fast divergence. Near T the first token
      to go obeys |x| (3 mu |s| (T - t))^(1/3) -> 1, or for s = 0
      |x| (2 mu delta0 (T - t))^(1/2) -> 1.
    """
    check_blows_up(system, x)
    time, w, gains = _blow_up(system, x, escape, rtol)
    check_finished(~jnp.isnan(time), rtol)
    first = int(jnp.argmax(gains > 1e-3 * jnp.max(gains)))
    return BlowUp(time, first, jnp.sign(x) * jnp.exp(w))


@jax.jit
def _blow_up(system, x, escape, rtol):
    signs = jnp.sign(x)
    never = ~blows_up(system, x)
    start = jnp.concatenate([jnp.zeros(1, x.dtype), jnp.log(jnp.abs(x))])
    # time is to be right on the scale on which tokens move now
    scale = jnp.max(log_velocity(system, start[1:], signs))
    atol = jnp.full_like(start, rtol).at[0].set(rtol / scale)
    # growth by e at most per unit of sigma, so this is far enough
    sigma = jnp.array([0.0, 1e9], x.dtype)
    flow = integrate(
        Partial(_growth_field, system, signs),
        start,
        sigma,
        stop=Partial(_is_over, never, jnp.log(escape)),
        rtol=0.0,
        atol=atol,
        max_step=1.0,
    )
    time, w = flow.states[-1, 0], flow.states[-1, 1:]
    gains = log_velocity(system, w, signs)
    # d ln|x|/dt = r grows like |x|^3, for s = 0 like |x|^2: what is left is 1 / (3 r)
    order = jnp.where(jnp.asarray(system.s) == 0, 2.0, 3.0)
    time = time + 1 / (order * jnp.max(gains))
    time = jnp.where(flow.is_finished, time, jnp.nan)
    return jnp.where(never, jnp.inf, time), w, gains


def _growth_field(system, signs, state):
    rates = log_velocity(system, state[1:], signs)
    largest = jnp.max(rates)
    return jnp.concatenate([jnp.ones(1, rates.dtype), rates]) / largest


def _is_over(never, log_escape, state):
    return never | (jnp.max(state[1:]) > log_escape)


def check_blows_up(system: ScalarSystem, x: Float[Array, "l"]) -> None:
    """Raise unless some token of a float64 run blows up."""
    check_float64(x)
    regime = classify_scenario(system, x).regime
    if regime != "fast divergence":
        raise ValueError(
            f"These tokens never blow up: this is {regime}. Take "
            "flow_in_log_time(system, x, log_times) to follow them."
        )


def lifetimes(system: ScalarSystem, x: Float[Array, "l"]) -> Float[Array, "l"]:
    """Return when each token goes to infinity, given that later ones do not matter.

    By causality this is the blow-up time of the tokens up to it: it never increases
    along the sequence, and infinity stands for tokens that never blow up.

    Raises:
      ValueError: tokens are not float64.

    Examples:
      >>> from jmamba.dynamics import enable_x64
      >>> with enable_x64():
      ...     T = lifetimes(ScalarSystem(1.0, 1.0), jnp.array([-0.5, 0.8, -0.7]))
      >>> [round(float(v), 3) for v in T]
      [inf, 0.5, 0.5]

    References:
      Vo et al., arXiv 2410.03292, theorem on fast divergence, read per token.
    """
    check_float64(x)
    prefixes = jnp.where(jnp.tril(jnp.ones((len(x), len(x)), bool)), x[None], 0.0)
    times, _, _ = jax.vmap(lambda x: _blow_up(system, x, ESCAPE, 1e-12))(prefixes)
    return times


class GrowthFlow(NamedTuple):
    """Tokens on their way to a blow-up.

    Attributes:
      left: T - t, the time left, right to its own size however small.
      x: the tokens.
    """

    left: Float[Array, "t"]
    x: Float[Array, "t l"]


def flow_by_growth(
    system: ScalarSystem, x: Float[Array, "l"], growth: Float[Array, "t"]
) -> GrowthFlow:
    """Return tokens at given amounts of growth, up to the blow-up.

    Growth is the clock of `blow_up`, d sigma = max_l mu G[l] dt: it goes by 1 while the
    fastest token grows by a factor e, so that even steps are close where time is short.

    Args:
      system: the system.
      x: tokens at time 0, float64.
      growth: ascending, from 0; 18 takes a token to about `ESCAPE`.

    Raises:
      ValueError: no token ever blows up, or tokens are not float64.

    Examples:
      >>> from jmamba.dynamics import enable_x64
      >>> with enable_x64():
      ...     flow = flow_by_growth(ScalarSystem(1.0, 1.0), jnp.array([0.8]),
      ...         jnp.array([0.0, 1.0]))
      >>> round(float(flow.left[0]), 5), round(float(flow.x[1, 0]) / 0.8, 4)
      (0.5112, 2.7183)

    References:
      Vo et al., arXiv 2410.03292, theorem on fast divergence.
    """
    check_blows_up(system, x)
    states = _flow_by_growth(system, x, growth)
    # the system is autonomous: what is left is the blow-up time from there on
    left, _, _ = jax.vmap(lambda x: _blow_up(system, x, 1e3 * ESCAPE, 1e-12))(states)
    return GrowthFlow(left, states)


@jax.jit
def _flow_by_growth(system, x, growth):
    start = jnp.concatenate([jnp.zeros(1, x.dtype), jnp.log(jnp.abs(x))])
    flow = integrate(
        Partial(_growth_field, system, jnp.sign(x)),
        start,
        growth,
        rtol=0.0,
        atol=jnp.full_like(start, 1e-12).at[0].set(jnp.inf),  # time comes later
        max_step=1.0,
    )
    return jnp.sign(x)[None] * jnp.exp(flow.states[:, 1:])
