"""What becomes of tokens of any number of channels: diverge, converge or settle."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float

from jmamba.dynamics.theory.integration import integrate
from jmamba.dynamics.theory.system import TokenSystem, vector_field

ESCAPE = 1e8
"""A token this far away is treated as being at infinity."""


class Fates(NamedTuple):
    """Where tokens are in the end, and how they still move.

    Attributes:
      time: the end of each: the horizon, or when it escaped or moved no more.
      x: the tokens then.
      exponents: d ln|x[l]| / d ln ln t at the end: 1 for slow divergence, 0 at rest,
        very negative for convergence, very positive for faster growth.
      diverges: which tokens escaped or have an exponent above 1/2.
      converges: which tokens have an exponent below -1/2; the others settle.
    """

    time: Float[Array, "*l"]
    x: Float[Array, "*l d"]
    exponents: Float[Array, "*l"]
    diverges: Bool[Array, "*l"]
    converges: Bool[Array, "*l"]


def follow_fates(
    system: TokenSystem,
    x: Float[Array, "l d"],
    *,
    log_horizon: float = 40.0,
    max_steps: int = 20_000,
) -> Fates:
    """Follow tokens for a very long time and say where each one goes.

    Time runs by dt = (1 + t) d sigma / (1 + (1 + t) r) with r = max_l |F[l]| / |x[l]|:
    as ln t where tokens move slowly, as growth where they blow up. The end is where a
    token escapes, where none changes by 1e-6 of itself in a time as long as all before,
    or at the horizon. By causality a token's fate is read from a run that ends with it.

    Args:
      system: the layer.
      x: tokens at time 0, none of them zero, float64.
      log_horizon: ln of the last time.
      max_steps: steps to try at most; a fate is then read off earlier.

    Raises:
      ValueError: a token is zero, which it stays, or not finite.

    Examples:
      >>> from jmamba.dynamics import enable_x64
      >>> with enable_x64():
      ...     eye = jnp.eye(2)
      ...     system = TokenSystem(jnp.diag(jnp.array([1.0, -0.5])), eye, 0 * eye, -eye,
      ...         jnp.zeros(2))
      ...     fates = follow_fates(system, jnp.array([[0.1, 1.0], [0.9, 0.3]]))
      >>> fates.converges.tolist(), fates.diverges.tolist()
      ([True, False], [False, True])

    References:
      Vo et al., arXiv 2410.03292, section 4, the higher-dimensional case: a conjecture
      there, with counterexamples such as the above, where M has a positive eigenvalue
      and the first token goes to zero.
    """
    check_directions(x)
    return _follow_each(system, x, jnp.asarray(log_horizon, x.dtype), max_steps)


def check_directions(x) -> None:
    """Raise if a token is zero, so that it has no direction, or not finite."""
    if isinstance(x, Tracer):
        return
    sizes = np.linalg.norm(np.asarray(x), axis=-1)
    if not np.all(np.isfinite(sizes)):
        raise ValueError(f"Tokens must be finite, but their sizes are {sizes}.")
    if not np.all(sizes > 0):
        zero = np.flatnonzero(sizes == 0).tolist()
        raise ValueError(
            f"Tokens {zero} are zero: they stay zero for ever and move no other, so "
            "they have no fate to follow. Leave them out."
        )


@partial(jax.jit, static_argnames="max_steps")
def _follow_each(system, x, log_horizon, max_steps):
    # later tokens move nobody, and may blow up before: each token ends its own run
    prefixes = jnp.tril(jnp.ones((len(x), len(x)), bool))
    runs = jax.vmap(lambda active: _follow(system, x, active, log_horizon, max_steps))(
        prefixes
    )
    last = jnp.arange(len(x))
    time, *of_tokens = runs
    return Fates(time, *(v[last, last] for v in of_tokens))


def _follow(system, x, active, log_horizon, max_steps):
    """Follow the active tokens until the first of them escapes."""
    start = jnp.concatenate([jnp.zeros(1, x.dtype), x.ravel()])
    # sigma advances by less than 1 per unit of ln t and by 1 per factor e of growth;
    # the horizon is met by the stop
    sigma = jnp.array([0.0, 1e9], x.dtype)
    flow = integrate(
        Partial(clocked_field, system, active),
        start,
        sigma,
        stop=Partial(_is_over, system, active, log_horizon),
        rtol=1e-8,
        atol=1e-14,
        max_step=1.0,
        max_steps=max_steps,
    )
    time, x = flow.states[-1, 0], flow.states[-1, 1:].reshape(x.shape)
    radial = jnp.sum(vector_field(system, x) * x, axis=1) / jnp.sum(x * x, axis=1)
    exponents = radial * (1 + time) * jnp.log1p(time)
    diverges = (jnp.linalg.norm(x, axis=1) > ESCAPE) | (exponents > 0.5)
    return Fates(time, x, exponents, diverges, ~diverges & (exponents < -0.5))


def _fastest(system, active, x):
    """Return F and the largest relative speed |F| / |x| of a token."""
    F = jnp.where(active[:, None], vector_field(system, x), 0.0)
    return F, jnp.max(jnp.linalg.norm(F, axis=1) / jnp.linalg.norm(x, axis=1))


def clocked_field(
    system: TokenSystem, active: Bool[Array, "l"], state: Float[Array, "s"]
) -> Float[Array, "s"]:
    """Return d(t, x)/d sigma of the active tokens, by the clock of `follow_fates`."""
    t, x = state[0], state[1:].reshape(-1, system.S_B.shape[1])
    F, fastest = _fastest(system, active, x)
    rate = (1 + t) / (1 + (1 + t) * fastest)
    return rate * jnp.concatenate([jnp.ones(1, x.dtype), F.ravel()])


def _is_over(system, active, log_horizon, state):
    t, x = state[0], state[1:].reshape(-1, system.S_B.shape[1])
    _, fastest = _fastest(system, active, x)
    escaped = jnp.max(jnp.linalg.norm(x, axis=1)) > ESCAPE
    settled = fastest * (1 + t) < 1e-6
    return escaped | settled | (jnp.log1p(t) > log_horizon)


def draw_systems(
    eigenvalues: Float[Array, "d"], count: int, length: int, *, key: Array
) -> tuple[TokenSystem, Float[Array, "s l d"]]:
    """Draw systems whose M is a random rotation of the eigenvalues, and their tokens.

    S_delta and tokens are standard normal, decay rates are 1 and there is no bias.

    Args:
      eigenvalues: of the symmetric M.
      count: how many systems.
      length: tokens of each.
      key: randomness.

    Returns:
      Systems with a leading axis, and tokens of each.

    Examples:
      >>> systems, x = draw_systems(jnp.array([1.0, -0.5]), 3, 4, key=jax.random.key(0))
      >>> x.shape, [round(float(v), 4) for v in jnp.linalg.eigvalsh(systems.M[0])]
      ((3, 4, 2), [-0.5, 1.0])

    References:
      Vo et al., arXiv 2410.03292, figure 6 (two channels, by signs of eigenvalues).
    """
    d, dtype = len(eigenvalues), eigenvalues.dtype
    turn, step, token = jax.random.split(key, 3)
    Q, _ = jnp.linalg.qr(jax.random.normal(turn, (count, d, d), dtype))
    M = jnp.einsum("sij,j,skj->sik", Q, eigenvalues, Q)
    eye = jnp.broadcast_to(jnp.eye(d, dtype=dtype), M.shape)
    S_delta = jax.random.normal(step, M.shape, dtype)
    systems = TokenSystem(M, eye, S_delta, -jnp.ones_like(M), jnp.zeros_like(M[:, 0]))
    return systems, jax.random.normal(token, (count, length, d), dtype)


class FateTable(NamedTuple):
    """Counts over random systems.

    Attributes:
      systems: how many there were.
      some_diverge: systems of which some token diverges.
      all_converge: systems of which all tokens converge.
      first_repelled: systems with x^T M x < 0 for the first token.
      first_shrank: those among them whose first token became smaller.
    """

    systems: int
    some_diverge: int
    all_converge: int
    first_repelled: int
    first_shrank: int


def tabulate_fates(
    eigenvalues: Float[Array, "d"],
    *,
    count: int = 60,
    length: int = 4,
    log_horizon: float = 40.0,
    key: Array | None = None,
) -> FateTable:
    """Count the fates of random systems with given eigenvalues of M.

    Args:
      eigenvalues: of the symmetric M, float64.
      count: how many systems.
      length: tokens of each.
      log_horizon: ln of the time at which fates are read.
      key: randomness; None for a fixed one.

    Examples:
      >>> from jmamba.dynamics import enable_x64
      >>> with enable_x64():
      ...     table = tabulate_fates(jnp.array([-1.0, -0.5]), count=6)
      >>> table.all_converge, table.some_diverge
      (6, 0)

    References:
      Vo et al., arXiv 2410.03292, figure 6. For indefinite M not all systems diverge:
      a first token with x^T M x < 0 shrinks, to zero or to a point with x^T M x = 0.
    """
    key = jax.random.key(0) if key is None else key
    systems, x = draw_systems(eigenvalues, count, length, key=key)
    fates = _follow_all(systems, x, jnp.asarray(log_horizon, x.dtype))
    first = x[:, 0]
    q = jnp.einsum("sd,sde,se->s", first, systems.M, first)
    shrank = jnp.linalg.norm(fates.x[:, 0], axis=1) < jnp.linalg.norm(first, axis=1)
    counts = (
        jnp.any(fates.diverges, axis=1),
        jnp.all(fates.converges, axis=1),
        q < 0,
        (q < 0) & shrank,
    )
    return FateTable(count, *(int(np.sum(np.asarray(c))) for c in counts))


@jax.jit
def _follow_all(systems, x, log_horizon):
    active = jnp.ones(x.shape[1], bool)
    return jax.vmap(lambda system, x: _follow(system, x, active, log_horizon, 20_000))(
        systems, x
    )
