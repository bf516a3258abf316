"""The continuous-time system of tokens that move through one shared layer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmamba.ops import selective_scan

MEMORY_LIMIT = 2**30
"""Bytes that the dense attention tensor may take."""


class TokenSystem(NamedTuple):
    """What decides how tokens x (l, d) move: dx/dt = F(x).

    Several systems, or several layers, have a leading axis s.

    Attributes:
      S_B: makes input gates, B[j] = S_B x[j].
      S_C: makes output gates, C[i] = S_C x[i].
      S_delta: makes step sizes, delta[j] = softplus(S_delta x[j] + bias).
      A: decay rates, negative; the paper has the same for all states of a channel.
      bias: of the step sizes; zero in the paper.

    References:
      Vo et al., arXiv 2410.03292, section 3.
    """

    S_B: Float[Array, "*s n d"]
    S_C: Float[Array, "*s n d"]
    S_delta: Float[Array, "*s d d"]
    A: Float[Array, "*s d n"]
    bias: Float[Array, "*s d"]

    @property
    def M(self) -> Float[Array, "*s d d"]:
        """The input-output matrix M = S_C^T S_B, so that C[i].B[j] = x[i]^T M x[j]."""
        return jnp.einsum("...nd,...ne->...de", self.S_C, self.S_B)


def step_sizes(system: TokenSystem, x: Float[Array, "l d"]) -> Float[Array, "l d"]:
    """Return delta = softplus(S_delta x + bias) of every token and channel."""
    pre = jnp.einsum("le,de->ld", x, system.S_delta)
    return jax.nn.softplus(pre + system.bias[None])


def vector_field(system: TokenSystem, x: Float[Array, "l d"]) -> Float[Array, "l d"]:
    """Return the velocity F(x) of every token, by one selective scan.

        h[l] = exp(delta[l] A) h[l-1] + delta[l] x[l] B[l]
        F[l] = h[l] . C[l]

    Costs O(l d n) in time and memory; differentiate with `jax.jacfwd`.

    Args:
      system: the layer.
      x: tokens.

    Examples:
      >>> from jmamba.dynamics import ScalarSystem
      >>> system = ScalarSystem(mu=-0.8, s=1.5, a=0.7).as_token_system(jnp.float32)
      >>> F = vector_field(system, jnp.array([[0.5], [-1.0], [2.0], [0.25]]))
      >>> [round(float(v), 3) for v in F[:, 0]]
      [-0.114, 0.359, -19.596, -1.318]

    References:
      Vo et al., arXiv 2410.03292, section 3.
    """
    B = jnp.einsum("ld,nd->ln", x, system.S_B)
    C = jnp.einsum("ld,nd->ln", x, system.S_C)
    delta = step_sizes(system, x)
    return selective_scan(x[None], delta[None], system.A, B[None], C[None]).y[0]


def system_attention(
    system: TokenSystem,
    x: Float[Array, "l d"],
    *,
    memory_limit: int = MEMORY_LIMIT,
) -> Float[Array, "d l l"]:
    """Return the dense hidden attention P of the system: F[l, d] = P[d, l] . x[:, d].

        P[d, i, j] = sum_n C[i, n] B[j, n] exp(A[d, n] sum_{j < k <= i} delta[k, d])
                     delta[j, d]   for j <= i, else 0

    Args:
      system: the layer.
      x: tokens.
      memory_limit: bytes the result may take.

    Raises:
      ValueError: the result would be larger than the limit.

    Examples:
      >>> from jmamba.dynamics import ScalarSystem
      >>> system = ScalarSystem(mu=-0.8, s=1.5, a=0.7).as_token_system(jnp.float32)
      >>> x = jnp.array([[0.5], [-1.0], [2.0], [0.25]])
      >>> P = system_attention(system, x)
      >>> bool(jnp.allclose(P[0] @ x, vector_field(system, x), rtol=1e-5))
      True

    References:
      Vo et al., arXiv 2410.03292, section 3, the matrix P.
    """
    length, channels = x.shape
    size = channels * length**2 * x.dtype.itemsize
    if size > memory_limit:
        raise ValueError(
            f"system_attention would return {size / 2**30:.2f} GiB ({channels} "
            f"channels x {length} x {length} tokens), over the limit of "
            f"{memory_limit / 2**30:.2f} GiB. Take vector_field(system, x), which "
            "never forms it, fewer tokens, or raise memory_limit."
        )
    return _system_attention(system, x)


@jax.jit
def _system_attention(system, x):
    delta = step_sizes(system, x).T  # l d -> d l
    S = jnp.cumsum(delta, axis=1)
    elapsed = S[:, :, None] - S[:, None, :]  # d i j
    length = x.shape[0]
    causal = jnp.tril(jnp.ones((length, length), bool))[None]

    def add(P, gates):  # one state at a time: an array (d, l, l, n) never exists
        A, S_B, S_C = gates
        q = jnp.outer(x @ S_C, x @ S_B)[None]
        exponent = jnp.where(causal, A[:, None, None] * elapsed, -jnp.inf)
        return P + q * jnp.exp(exponent), None

    start = jnp.zeros_like(elapsed)
    P, _ = jax.lax.scan(add, start, (system.A.T, system.S_B, system.S_C))
    return P * delta[:, None, :]


def with_scalar_rates(system: TokenSystem, reduction: str = "mean") -> TokenSystem:
    """Return the system with one decay rate per channel, as the paper assumes.

    Args:
      system: the layer, whose A differs from state to state.
      reduction: "mean" of the rates |A[d, n]| over n, or their "min" (slowest).

    Raises:
      ValueError: the reduction is unknown.

    Examples:
      >>> from jmamba.dynamics import ScalarSystem
      >>> system = ScalarSystem(mu=1.0, s=1.0).as_token_system(jnp.float32)
      >>> system = system._replace(A=jnp.array([[-1.0, -3.0]]))
      >>> with_scalar_rates(system).A.tolist()
      [[-2.0, -2.0]]
      >>> with_scalar_rates(system, "min").A.tolist()
      [[-1.0, -1.0]]
    """
    reductions = {"mean": jnp.mean, "min": jnp.max}  # rates are -A
    if reduction not in reductions:
        raise ValueError(f"Unknown reduction {reduction!r}; give 'mean' or 'min'.")
    A = reductions[reduction](system.A, axis=1, keepdims=True)
    return system._replace(A=jnp.broadcast_to(A, system.A.shape))
