"""What the pictures of the one-dimensional theory show: runs, and what they should do.

Each function runs one system whose numbers are known; they need float64.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jmamba.dynamics.theory.blow_ups import blow_up, flow_by_growth
from jmamba.dynamics.theory.fates import follow_fates
from jmamba.dynamics.theory.log_time import (
    convergence_bound,
    convergence_constants,
    flow_in_log_time,
    log_time_bound,
)
from jmamba.dynamics.theory.scalar_system import ScalarSystem
from jmamba.dynamics.theory.scenarios import time_alone


class Convergence(NamedTuple):
    """Runs that go to zero, one per decay rate.

    Attributes:
      rates: the decay rates a.
      log_times: ln t.
      sizes: |x|.
      bounds: what the theorem allows.
      limits: what sqrt(t) |x| tends to.
    """

    rates: Float[Array, "s"]
    log_times: Float[Array, "t"]
    sizes: Float[Array, "s t l"]
    bounds: Float[Array, "s t l"]
    limits: Float[Array, "s l"]


def portray_convergence(
    rates: tuple[float, ...] = (0.5, 1.0, 2.0),
    x: tuple[float, ...] = (1.0, -0.5, 2.0, 0.3),
) -> Convergence:
    """Follow tokens to zero, with mu = -0.8 and s = 1.5.

    Args:
      rates: decay rates.
      x: tokens at time 0.

    Examples:
      >>> from jmamba.dynamics import enable_x64
      >>> with enable_x64():
      ...     seen = portray_convergence((1.0,))
      >>> sizes, limits = np.asarray(seen.sizes), np.asarray(seen.limits)
      >>> last = np.exp(12.5) * sizes[0, -1]  # sqrt(t) |x| at e^25
      >>> bool(np.all(np.abs(last / limits[0] - 1) < 1e-3))
      True

    References:
      Vo et al., arXiv 2410.03292, theorem on convergence.
    """
    start, log_times = jnp.array(x), jnp.linspace(-3.0, 25.0, 113)
    runs = []
    for a in rates:
        system = ScalarSystem(mu=-0.8, s=1.5, a=a)
        runs.append((
            jnp.abs(flow_in_log_time(system, start, log_times)),
            convergence_bound(system, start, jnp.exp(log_times)),
            convergence_constants(system, start),
        ))  # fmt: skip
    columns = (jnp.stack(column) for column in zip(*runs, strict=True))
    return Convergence(jnp.array(rates), log_times, *columns)


class SlowDivergence(NamedTuple):
    """A run that diverges slowly.

    Attributes:
      log_times: ln t.
      x: the tokens.
      bound: (ln t)^l, l from 1.
    """

    log_times: Float[Array, "t"]
    x: Float[Array, "t l"]
    bound: Float[Array, "t l"]


def portray_slow_divergence(
    x: tuple[float, ...] = (0.5, 0.5, 0.5, 0.5),
) -> SlowDivergence:
    """Follow tokens that diverge slowly, with mu = 1 and s = -1, to t = e^640.

    Args:
      x: tokens at time 0, all positive.

    Examples:
      >>> from jmamba.dynamics import enable_x64
      >>> with enable_x64():
      ...     seen = portray_slow_divergence()
      >>> [round(float(v), 3) for v in seen.x[-1] / seen.log_times[-1]]
      [1.03, 3.662, 8.458, 15.597]

    References:
      Vo et al., arXiv 2410.03292, theorem on slow divergence.
    """
    start, log_times = jnp.array(x), jnp.geomspace(1.5, 640.0, 120)
    path = flow_in_log_time(ScalarSystem(mu=1.0, s=-1.0), start, log_times)
    return SlowDivergence(log_times, path, log_time_bound(start, log_times))


class Explosion(NamedTuple):
    """A run up to its blow-up.

    Attributes:
      s: the step-size weight.
      end: the time T of the blow-up.
      token: the first token to go to infinity.
      left: T - t.
      sizes: |x| then.
      law: what |x[token]| tends to near T.
    """

    s: float
    end: Float[Array, ""]
    token: int
    left: Float[Array, "t"]
    sizes: Float[Array, "t l"]
    law: Float[Array, "t"]


def portray_blow_up(s: float, x: tuple[float, ...]) -> Explosion:
    """Follow tokens to their blow-up, with mu = 1.

        |x| = (3 mu |s| (T - t))^(-1/3) near T, for s = 0 (2 mu ln 2 (T - t))^(-1/2)

    Args:
      s: step-size weight.
      x: tokens at time 0, one of them with s x >= 0.

    Examples:
      >>> from jmamba.dynamics import enable_x64
      >>> with enable_x64():
      ...     seen = portray_blow_up(1.0, (0.5, 0.6, 0.4, 0.7))
      >>> round(float(seen.end), 6), seen.token
      (0.649849, 3)
      >>> round(float(seen.sizes[-1, 3] / seen.law[-1]), 4)
      1.0

    References:
      Vo et al., arXiv 2410.03292, theorem on fast divergence.
    """
    system, start = ScalarSystem(mu=1.0, s=s), jnp.array(x)
    end = blow_up(system, start)
    flow = flow_by_growth(system, start, jnp.linspace(0.0, 16.0, 97))
    power, factor = (3.0, 3 * abs(s)) if s else (2.0, 2 * float(np.log(2)))
    law = (factor * flow.left) ** (-1 / power)
    return Explosion(s, end.time, end.token, flow.left, jnp.abs(flow.x), law)


REGIMES = ("convergence", "slow divergence", "fast divergence", "none of them")
"""What the codes of `PhaseDiagram.regimes` stand for."""


class PhaseDiagram(NamedTuple):
    """What becomes of a single token, as simulated.

    Attributes:
      mu: input-output weights.
      sx: s x at time 0, with s = 1.
      regimes: places in `REGIMES`.
      fine_sx: positive s x, closer to each other.
      time_alone: when theory says that a token with mu = 1 blows up from there; with
        another mu it takes 1 / mu of that.
    """

    mu: Float[np.ndarray, "m"]
    sx: Float[np.ndarray, "p"]
    regimes: Int[np.ndarray, "m p"]
    fine_sx: Float[np.ndarray, "q"]
    time_alone: Float[np.ndarray, "q"]


def portray_phases(points: int = 24) -> PhaseDiagram:
    """Simulate one token over a grid of mu and s x, and read off its regime.

    The run ends at t = e^40 or where |x| passes 1e8; a regime is what was seen, not
    what signs say.

    Args:
      points: of each axis, an even number, so that neither mu nor s x is zero.

    Examples:
      >>> from jmamba.dynamics import enable_x64
      >>> with enable_x64():
      ...     seen = portray_phases(2)
      >>> [[REGIMES[i] for i in row] for row in seen.regimes]  # doctest: +ELLIPSIS
      [['convergence', 'convergence'], ['slow divergence', 'fast divergence']]

    References:
      Vo et al., arXiv 2410.03292, section 4.
    """
    mu, sx = (np.linspace(-most, most, points) for most in (2.0, 3.0))
    grid = [jnp.asarray(v.ravel()) for v in np.meshgrid(mu, sx, indexing="ij")]
    kinds = np.asarray(jax.jit(jax.vmap(_phase))(*grid)).reshape(points, points)
    fine = jnp.linspace(0.02, 3.0, 150)
    alone = jax.vmap(lambda x: time_alone(ScalarSystem(mu=1.0, s=1.0), x))(fine)
    return PhaseDiagram(mu, sx, kinds, np.asarray(fine), np.asarray(alone))


def _phase(mu, x):
    system = ScalarSystem(mu=mu, s=1.0)
    fates = follow_fates(system.as_token_system(x.dtype), x[None, None])
    escaped = jnp.abs(fates.x[0, 0]) > 1e8
    cases = [fates.converges[0], fates.diverges[0] & ~escaped, escaped]
    return jnp.select(cases, [jnp.array(i) for i in range(3)], jnp.array(3))


class GrowthFactors(NamedTuple):
    """The factors by which later tokens lead the first in slow divergence.

    Attributes:
      rates: the decay rates a.
      factors: C[l] = lim |x[l]| / |x[1]|, read at t = e^640.
      earlier: the same at t = e^320: their distance says how far the limit is.
    """

    rates: Float[Array, "s"]
    factors: Float[Array, "s l"]
    earlier: Float[Array, "s l"]


def portray_growth_factors(
    rates: Float[np.ndarray, "s"], *, length: int = 6
) -> GrowthFactors:
    """Measure C[l] over the decay rate, with mu = 1, s = -1 and equal tokens.

    Args:
      rates: decay rates.
      length: tokens.

    Examples:
      >>> from jmamba.dynamics import enable_x64
      >>> with enable_x64():
      ...     seen = portray_growth_factors(np.array([1.0, 10.0]), length=3)
      >>> bool(jnp.all(seen.factors[1, 1:] < seen.factors[0, 1:]))
      True

    References:
      A sharp form of Vo et al., arXiv 2410.03292, theorem on slow divergence.
    """
    start, times = jnp.full(length, 0.5), jnp.array([320.0, 640.0])
    runs = [
        flow_in_log_time(ScalarSystem(mu=1.0, s=-1.0, a=float(a)), start, times)
        for a in rates
    ]
    ratios = jnp.stack([run / run[:, :1] for run in runs])
    return GrowthFactors(jnp.asarray(rates), ratios[:, 1], ratios[:, 0])
