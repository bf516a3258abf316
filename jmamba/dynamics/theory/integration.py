"""Integrators for ordinary differential equations, as jittable loops."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

Field = Callable[[Float[Array, "*y"]], Float[Array, "*y"]]
"""The right-hand side f of dy/dt = f(y)."""


class Flow(NamedTuple):
    """States of a solution, and how far it came.

    Attributes:
      times: when each state holds; after a stop, the time of the stop.
      states: one state per time.
      stopped: whether the stopping condition ended the solution by then.
      steps: how many steps were taken, rejected ones included.
      is_finished: whether the last time or a stop was reached within `max_steps`.
    """

    times: Float[Array, "t"]
    states: Float[Array, "t *y"]
    stopped: Bool[Array, "t"]
    steps: Int[Array, ""]
    is_finished: Bool[Array, ""]


def _euler(f, y, step):
    return y + step * f(y)


def _midpoint(f, y, step):
    return y + step * f(y + 0.5 * step * f(y))


def _rk4(f, y, step):
    k1 = f(y)
    k2 = f(y + 0.5 * step * k1)
    k3 = f(y + 0.5 * step * k2)
    k4 = f(y + step * k3)
    return y + (step / 6) * (k1 + 2 * k2 + 2 * k3 + k4)


METHODS = {"euler": _euler, "midpoint": _midpoint, "rk4": _rk4}
"""Fixed-step methods of order 1, 2 and 4."""


def march(
    f: Field,
    y: Float[Array, "*y"],
    step: float | Float[Array, ""],
    steps: int,
    *,
    method: str = "rk4",
) -> Float[Array, "t *y"]:
    """Return the states 0 to `steps` of a fixed-step method.

    With method "euler" this is a residual stack that repeats one layer, scaled by the
    step: y[k+1] = y[k] + step f(y[k]).

    Args:
      f: the right-hand side; a `jax.tree_util.Partial` is compiled once.
      y: state at time 0.
      step: step size.
      steps: how many steps.
      method: a name of `METHODS`.

    Raises:
      ValueError: the method is unknown, or the state overflowed; the message says when.

    Examples:
      >>> y = march(lambda y: -y, jnp.ones(1), 0.5, 2, method="euler")
      >>> y[:, 0].tolist()
      [1.0, 0.5, 0.25]

    References:
      Vo et al., arXiv 2410.03292, section 3 (depth as time).
    """
    if method not in METHODS:
        raise ValueError(
            f"Unknown method {method!r}; give one of {', '.join(METHODS)}."
        )
    states = _march(_as_partial(f), y, jnp.asarray(step, y.dtype), steps, method)
    if not isinstance(states, Tracer):
        finite = jnp.all(jnp.isfinite(states.reshape(steps + 1, -1)), axis=1)
        if not bool(jnp.all(finite)):
            k = int(jnp.argmin(finite))
            raise ValueError(
                f"The state overflowed at step {k} of {steps} (t = {k * float(step):g})"
                f". If the system blows up there, integrate with a stop, as in "
                f"integrate(..., stop=...); otherwise the step {float(step):g} is too "
                f"large: give a smaller one."
            )
    return states


@partial(jax.jit, static_argnames=("steps", "method"))
def _march(f, y, step, steps, method):
    def body(y, _):
        y_next = METHODS[method](f, y, step)
        return y_next, y_next

    _, states = jax.lax.scan(body, y, None, length=steps)
    return jnp.concatenate([y[None], states])


# Dormand & Prince, "A family of embedded Runge-Kutta formulae", 1980, table 2: stages,
# the last being the formula of order 5, and what sets it apart from that of order 4.
_STAGES = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0],
        [1 / 5, 0, 0, 0, 0, 0, 0],
        [3 / 40, 9 / 40, 0, 0, 0, 0, 0],
        [44 / 45, -56 / 15, 32 / 9, 0, 0, 0, 0],
        [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729, 0, 0, 0],
        [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656, 0, 0],
        [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0],
    ]
)
_ERROR = np.array(
    [71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40]
)


def integrate(
    f: Field,
    y: Float[Array, "*y"],
    times: Float[Array, "t"],
    *,
    stop: Callable[[Float[Array, "*y"]], Bool[Array, ""]] | None = None,
    rtol: float = 1e-9,
    atol: float | Float[Array, "*y"] = 1e-12,
    max_step: float = float("inf"),
    max_steps: int = 100_000,
) -> Flow:
    """Return the solution of dy/dt = f(y) at chosen times, with adaptive steps.

    The error of a step, estimated by the difference of two formulae of orders 5 and 4,
    stays below atol + rtol |y| in every component.

    Args:
      f: the right-hand side; a `jax.tree_util.Partial` is compiled once.
      y: state at the first time.
      times: ascending; the first is where y holds.
      stop: ends the solution after the first step at which it is true.
      rtol: relative tolerance.
      atol: absolute tolerance; an infinite one leaves a component unchecked.
      max_step: largest step.
      max_steps: steps to try at most, over all times.

    Examples:
      >>> flow = integrate(lambda y: -y, jnp.ones(1), jnp.array([0.0, 1.0]), rtol=1e-6)
      >>> round(float(flow.states[1, 0]), 4)
      0.3679
      >>> blows_up = integrate(lambda y: y * y, jnp.ones(1), jnp.array([0.0, 2.0]),
      ...     stop=lambda y: y[0] > 1e4, rtol=1e-6)
      >>> bool(blows_up.stopped[1]), round(float(blows_up.times[1]), 3)
      (True, 1.0)

    References:
      Dormand & Prince, "A family of embedded Runge-Kutta formulae", 1980.
    """
    stop = _never if stop is None else stop
    atol = jnp.broadcast_to(jnp.asarray(atol, y.dtype), y.shape)
    limits = _Limits(jnp.asarray(rtol, y.dtype), atol, jnp.asarray(max_step, y.dtype))
    return _integrate(_as_partial(f), y, times, _as_partial(stop), limits, max_steps)


def _never(y):
    return jnp.array(False)


class _Limits(NamedTuple):
    rtol: Array
    atol: Array
    max_step: Array


class _State(NamedTuple):
    t: Array
    y: Array
    step: Array
    stopped: Array
    steps: Array


@partial(jax.jit, static_argnames="max_steps")
def _integrate(f, y, times, stop, limits, max_steps):
    rtol, atol, max_step = limits
    smallest = 8 * float(jnp.finfo(y.dtype).eps)

    def is_stuck(s):
        return (s.steps >= max_steps) | (s.step <= smallest * jnp.abs(s.t))

    def advance(s, target):
        def unfinished(s):
            return (s.t < target) & ~s.stopped & ~is_stuck(s)

        def attempt(s):
            left = target - s.t
            is_last = s.step >= left
            step = jnp.minimum(s.step, left)
            y, error = _dormand_prince(f, s.y, step)
            size = jnp.maximum(jnp.abs(s.y), jnp.abs(y))
            allowed = atol + jnp.where(rtol > 0, rtol * size, 0.0)  # size may be inf
            scaled = jnp.abs(error) / allowed
            worst = jnp.max(jnp.where(jnp.isnan(scaled), jnp.inf, scaled), initial=0.0)
            accepted = worst <= 1
            factor = 0.9 * jnp.maximum(worst, 1e-10) ** -0.2
            following = step * jnp.clip(factor, 0.2, jnp.where(accepted, 5.0, 0.9))
            # a step cut short to hit a time says little about the next one
            following = jnp.where(
                accepted & is_last, jnp.maximum(following, s.step), following
            )
            following = jnp.minimum(following, max_step)
            t = jnp.where(is_last, target, s.t + step)
            t, y = jnp.where(accepted, t, s.t), jnp.where(accepted, y, s.y)
            return _State(t, y, following, stop(y), s.steps + 1)

        s = jax.lax.while_loop(unfinished, attempt, s)
        return s, (s.t, s.y, s.stopped)

    # a first step so small that every component's error is
    rate = jnp.max(jnp.abs(f(y)) / (atol + jnp.abs(y)), initial=0.0)
    first = jnp.minimum(1e-3 / jnp.maximum(rate, 1e-3), times[-1] - times[0])
    first = jnp.minimum(first, max_step)
    start = _State(times[0], y, first, stop(y), jnp.array(0))
    end, (reached, states, stopped) = jax.lax.scan(advance, start, times)
    finished = end.stopped | (end.t >= times[-1])
    return Flow(reached, states, stopped, end.steps, finished)


def _dormand_prince(f, y, step):
    """Return the state one step on, and the estimate of its error."""
    stages = jnp.asarray(_STAGES, y.dtype)

    def combine(weights, slopes):
        return step * jnp.tensordot(weights, slopes, 1)

    def stage(i, carry):
        slopes, _ = carry
        at = y + combine(stages[i], slopes)
        return slopes.at[i].set(f(at)), at

    # a loop, since f is compiled once in it
    slopes = jnp.zeros((len(stages), *y.shape), y.dtype)
    slopes, y_next = jax.lax.fori_loop(0, len(stages), stage, (slopes, y))
    return y_next, combine(jnp.asarray(_ERROR, y.dtype), slopes)


def _as_partial(f):
    return f if isinstance(f, Partial) else Partial(f)
