"""What the pictures of more channels, and of hidden attention over time, show."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jmamba.dynamics.theory.blow_ups import blow_up, flow_by_growth
from jmamba.dynamics.theory.fates import clocked_field, draw_systems
from jmamba.dynamics.theory.integration import integrate
from jmamba.dynamics.theory.log_time import flow_in_log_time
from jmamba.dynamics.theory.scalar_system import ScalarSystem
from jmamba.dynamics.theory.system import TokenSystem, system_attention


class PlanePaths(NamedTuple):
    """Ways of tokens of two channels.

    Attributes:
      M: the input-output matrix.
      paths: where tokens were, from the start on, each at times of its own.
    """

    M: Float[Array, "d d"]
    paths: Float[Array, "t l d"]


CASES = {
    "A: eigenvalues 1, 1/2": (1.0, 0.5),
    "B: eigenvalues 1, −1/2": (1.0, -0.5),
    "C: eigenvalues −1, −1/2": (-1.0, -0.5),
}
"""Names of the cases of the paper's figure 6 -> eigenvalues of M here."""


def portray_plane(*, seed: int = 0, length: int = 4) -> dict[str, PlanePaths]:
    """Follow tokens of two channels in the cases A, B and C, and on the null cone.

    The last entry is the exception: M has a positive eigenvalue, and yet the single
    token comes to rest at a point with x^T M x = 0 that is not the origin.

    Args:
      seed: of the systems and tokens.
      length: tokens.

    Examples:
      >>> from jmamba.dynamics import enable_x64
      >>> with enable_x64():
      ...     *_, (M, paths) = portray_plane().values()
      >>> [round(float(v), 3) for v in paths[-1, 0]]
      [0.326, 0.461]

    References:
      Vo et al., arXiv 2410.03292, figure 6, and a counterexample to its reading.
    """
    seen = {}
    for name, eigenvalues in CASES.items():
        values = jnp.array(eigenvalues)
        systems, x = draw_systems(values, 1, length, key=jax.random.key(seed))
        system = jax.tree.map(lambda v: v[0], systems)
        seen[name] = PlanePaths(system.M, _follow_path(system, x[0]))
    eye, M = jnp.eye(2), jnp.diag(jnp.array([1.0, -0.5]))
    system = TokenSystem(M, eye, jnp.diag(jnp.array([-1.0, 1.0])), -eye, jnp.zeros(2))
    path = _follow_path(system, jnp.array([[0.5, 1.2]]))
    seen["at rest on the null cone"] = PlanePaths(M, path)
    return seen


def _follow_path(system, x, points=400):
    """Return each token's way in the run that ends with it: later ones do not matter.

    A token may go to infinity before earlier ones, which then go on without it.
    """
    prefixes = jnp.tril(jnp.ones((len(x), len(x)), bool))
    start = jnp.concatenate([jnp.zeros(1, x.dtype), x.ravel()])
    clock = jnp.linspace(0.0, 40.0, points)

    def follow(active):
        field = Partial(clocked_field, system, active)
        over = Partial(_escaped, system, active)
        flow = integrate(field, start, clock, stop=over, rtol=1e-9, atol=1e-14,
                         max_step=0.5)  # fmt: skip
        return flow.states[:, 1:].reshape(-1, *x.shape)

    last = jnp.arange(len(x))
    return jnp.moveaxis(jax.vmap(follow)(prefixes)[last, :, last], 0, 1)


def _escaped(system, active, state):
    x = state[1:].reshape(-1, system.S_B.shape[1])
    return jnp.max(jnp.where(active[:, None], jnp.abs(x), 0.0)) > 1e6


class AttentionOverTime(NamedTuple):
    """Hidden attention of a run at a few times.

    Attributes:
      moments: what the times are, in words.
      x: tokens then.
      P: hidden attention then.
    """

    moments: tuple[str, ...]
    x: Float[Array, "t l"]
    P: Float[Array, "t l l"]


def portray_attention(*, length: int = 10) -> dict[str, AttentionOverTime]:
    """Return P(t) in each of the three scenarios, for equal tokens of one channel.

    Args:
      length: tokens.

    Examples:
      >>> from jmamba.dynamics import enable_x64
      >>> with enable_x64():
      ...     seen = portray_attention(length=3)
      >>> {name: run.P.shape for name, run in seen.items()}["convergence"]
      (3, 3, 3)

    References:
      Vo et al., arXiv 2410.03292, section 3, the matrix P.
    """
    x = jnp.full(length, 0.5)
    seen = {}
    for name, mu, s in [("convergence", -1.0, 1.0), ("slow divergence", 1.0, -1.0)]:
        system, log_times = ScalarSystem(mu=mu, s=s), jnp.array([1.0, 12.0])
        later = flow_in_log_time(system, x, log_times)
        tokens = jnp.concatenate([x[None], later])
        moments = ("t = 0", "ln t = 1", "ln t = 12")
        seen[name] = AttentionOverTime(moments, tokens, _attentions(system, tokens))
    system = ScalarSystem(mu=1.0, s=1.0)
    end = float(blow_up(system, x).time)
    flow = flow_by_growth(system, x, jnp.array([0.0, 1.0, 5.0]))
    left = [float(v) / end for v in flow.left]
    moments = ("t = 0", *(f"T − t = {v:.1g} T" for v in left[1:]))
    P = _attentions(system, flow.x)
    return seen | {"fast divergence": AttentionOverTime(moments, flow.x, P)}


def _attentions(system, tokens):
    shared = system.as_token_system(tokens.dtype)
    return jnp.stack([system_attention(shared, x[:, None])[0] for x in tokens])
