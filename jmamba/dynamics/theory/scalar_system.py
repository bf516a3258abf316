"""The system with a single channel, in log-space: exact over hundreds of decades."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmamba.dynamics.theory.system import TokenSystem

Scalar = float | Float[Array, ""]


class ScalarSystem(NamedTuple):
    """A system of one channel and one state.

    Attributes:
      mu: input-output weight, S_C^T S_B.
      s: step-size weight, S_delta.
      a: decay rate, positive.
      bias: of the step sizes, delta = softplus(s x + bias).

    References:
      Vo et al., arXiv 2410.03292, section 4.
    """

    mu: Scalar
    s: Scalar
    a: Scalar = 1.0
    bias: Scalar = 0.0

    def as_token_system(self, dtype) -> TokenSystem:
        """Return the same system for `vector_field`, tokens being (l, 1)."""
        one, row = jnp.ones((1, 1), dtype), jnp.ones((1,), dtype)
        return TokenSystem(
            one * self.mu, one, one * self.s, -one * self.a, row * self.bias
        )


def log_softplus(x: Float[Array, "*x"]) -> Float[Array, "*x"]:
    """Return ln(ln(1 + e^x)), to full precision also where e^x underflows.

    Examples:
      >>> log_softplus(jnp.array([-700.0])).tolist()
      [-700.0]
    """
    small = x < -15
    t = jnp.exp(jnp.where(small, x, -15.0))
    tail = x - t / 2 + 5 * t * t / 24  # the next term is e^(3x) / 8 < 1e-20
    return jnp.where(small, tail, jnp.log(jax.nn.softplus(jnp.where(small, 0.0, x))))


def log_gains(
    system: ScalarSystem, w: Float[Array, "l"], signs: Float[Array, "l"]
) -> Float[Array, "l"]:
    """Return ln G, where d ln|x[l]|/dt = mu G[l], from w = ln|x| and signs of x.

        G[l] = exp(-a delta[l]) G[l-1] + x[l]^2 delta[l],   G[0] = 0

    Nothing under- or overflows: ln delta comes from `log_softplus`, sums from
    logaddexp. A token at zero has w = -inf.

    Examples:
      >>> x = jnp.array([0.5, -1.0, 2.0, 0.25])
      >>> system = ScalarSystem(mu=-0.8, s=1.5, a=0.7)
      >>> G = jnp.exp(log_gains(system, jnp.log(jnp.abs(x)), jnp.sign(x)))
      >>> [round(float(v), 4) for v in G]
      [0.2842, 0.4483, 12.2474, 6.5876]

    References:
      Vo et al., arXiv 2410.03292, section 4, in log-space.
    """
    pre = system.s * signs * jnp.exp(w) + system.bias
    lost = -system.a * jax.nn.softplus(pre)
    own = 2 * w + log_softplus(pre)

    def step(log_G, token):
        lost, own = token
        log_G = jnp.logaddexp(lost + log_G, own)
        return log_G, log_G

    return jax.lax.scan(step, jnp.full((), -jnp.inf, w.dtype), (lost, own))[1]


def log_velocity(
    system: ScalarSystem, w: Float[Array, "l"], signs: Float[Array, "l"]
) -> Float[Array, "l"]:
    """Return d ln|x|/dt = mu G; signs of x never change.

    Examples:
      >>> rate = log_velocity(ScalarSystem(2.0, 0.0), jnp.zeros(1), jnp.ones(1))
      >>> round(float(rate[0]), 4)  # 2 ln 2
      1.3863

    References:
      Vo et al., arXiv 2410.03292, section 4.
    """
    return system.mu * jnp.exp(log_gains(system, w, signs))


def scalar_jacobian(system: ScalarSystem, x: Float[Array, "l"]) -> Float[Array, "l l"]:
    """Return dF[l]/dx[m] of the one-dimensional field, in closed form.

        phi[m] = 2 x[m] delta[m] + x[m]^2 delta'[m]
                 - a delta'[m] exp(-a delta[m]) G[m-1]
        J[l, m] = mu x[l] exp(-a sum_{m < k <= l} delta[k]) phi[m] + (l = m) mu G[l]

    It is lower triangular, so its diagonal holds the eigenvalues.

    Examples:
      >>> J = scalar_jacobian(ScalarSystem(-0.8, 1.5, 0.7), jnp.array([0.5, -1.0]))
      >>> round(float(J[0, 0]), 4), float(J[0, 1])
      (-0.784, 0.0)

    References:
      Derived from Vo et al., arXiv 2410.03292, section 4.
    """
    pre = system.s * x + system.bias
    delta, slope = jax.nn.softplus(pre), system.s * jax.nn.sigmoid(pre)
    G = jnp.exp(log_gains(system, jnp.log(jnp.abs(x)), jnp.sign(x)))
    before = jnp.concatenate([jnp.zeros(1, x.dtype), G[:-1]])
    kept = jnp.exp(-system.a * delta)
    phi = 2 * x * delta + x * x * slope - system.a * slope * kept * before
    S = jnp.cumsum(delta)
    causal = jnp.tril(jnp.ones((len(x), len(x)), bool))
    exponent = jnp.where(causal, -system.a * (S[:, None] - S[None, :]), -jnp.inf)
    J = system.mu * x[:, None] * jnp.exp(exponent) * phi[None, :]
    return J + jnp.diag(system.mu * G)
