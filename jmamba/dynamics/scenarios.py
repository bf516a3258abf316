"""The three scenarios of the one-dimensional system: convergence, two divergences."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jmamba.dynamics.integration import integrate
from jmamba.dynamics.scalar_system import ScalarSystem, log_velocity

ESCAPE = 1e8
"""A token this far away is treated as being at infinity."""


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
    elif bool(_blows_up(system, x)):
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
    blows_up = (system.mu > 0) & (x != 0) & (system.s * x >= 0)
    delta = jax.nn.softplus(jnp.where(blows_up, pre, 0.0))
    integral = jnp.sum(jnp.asarray(weights / 2, x.dtype) * v / delta)
    mu, size = jnp.where(blows_up, system.mu, 1.0), jnp.where(blows_up, abs(x), 1.0)
    return jnp.where(blows_up, integral / (mu * size**2), jnp.inf)


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
    """Return the limits of sqrt(t) |x[l](t)| for mu < 0.

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
      >>> with jax.enable_x64(True):
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
      >>> with jax.enable_x64(True):
      ...     end = blow_up(ScalarSystem(1.0, 1.0), jnp.array([0.5, 0.6, 0.4, 0.7]))
      >>> round(float(end.time), 6), end.token
      (0.649849, 3)

    References:
      Vo et al., arXiv 2410.03292, theorem on fast divergence. Near T the first token
      to go obeys |x| (3 mu |s| (T - t))^(1/3) -> 1, or for s = 0
      |x| (2 mu delta0 (T - t))^(1/2) -> 1.
    """
    check_float64(x)
    regime = classify_scenario(system, x).regime
    if regime != "fast divergence":
        raise ValueError(
            f"These tokens never blow up: this is {regime}. Take "
            "flow_in_log_time(system, x, log_times) to follow them."
        )
    time, w, gains = _blow_up(system, x, escape, rtol)
    check_finished(~jnp.isnan(time), rtol)
    first = int(jnp.argmax(gains > 1e-3 * jnp.max(gains)))
    return BlowUp(time, first, jnp.sign(x) * jnp.exp(w))


@jax.jit
def _blow_up(system, x, escape, rtol):
    signs = jnp.sign(x)
    never = ~_blows_up(system, x)
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


def _blows_up(system, x):
    return jnp.any((system.s * x >= 0) & (x != 0)) & (jnp.asarray(system.mu) > 0)


def _growth_field(system, signs, state):
    rates = log_velocity(system, state[1:], signs)
    largest = jnp.max(rates)
    return jnp.concatenate([jnp.ones(1, rates.dtype), rates]) / largest


def _is_over(never, log_escape, state):
    return never | (jnp.max(state[1:]) > log_escape)


def lifetimes(system: ScalarSystem, x: Float[Array, "l"]) -> Float[Array, "l"]:
    """Return when each token goes to infinity, given that later ones do not matter.

    By causality this is the blow-up time of the tokens up to it: it never increases
    along the sequence, and infinity stands for tokens that never blow up.

    Raises:
      ValueError: tokens are not float64.

    Examples:
      >>> with jax.enable_x64(True):
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


def check_float64(x) -> None:
    """Raise unless tokens are float64, which these regimes need."""
    if x.dtype != jnp.float64:
        raise ValueError(
            f"Tokens are {x.dtype}, but times and sizes here span hundreds of decades: "
            "give float64 ones, inside `with jax.enable_x64(True):` or after "
            "jax.config.update('jax_enable_x64', True)."
        )


def check_finished(is_finished, rtol: float) -> None:
    """Raise unless an integration came to its end."""
    if not bool(is_finished):
        raise ValueError(
            f"The integration did not come to its end with rtol={rtol:g}; give a "
            "larger one, such as 1e-11."
        )


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
