"""What stands around the recurrence in the TPU kernels, per token and channel.

`gpu.elementwise` has the forms for compilers that lack log1p.
"""

import jax
import jax.numpy as jnp
from jax import lax


def softplus(x: jax.Array) -> jax.Array:
    """Return log(1 + exp(x)), without overflow, exact to rounding where x << 0."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@jax.custom_jvp
def silu(x: jax.Array) -> jax.Array:
    """Return x sigmoid(x)."""
    return x * lax.logistic(x)


@silu.defjvp
def _silu_jvp(primals, tangents):
    (x,), (d_x,) = primals, tangents
    gate = lax.logistic(x)
    return x * gate, gate * (1 + x * (1 - gate)) * d_x


def step_size(delta, delta_bias=None, *, delta_softplus: bool) -> jax.Array:
    """Return softplus(delta + delta_bias), each part optional."""
    if delta_bias is not None:
        delta = delta + delta_bias
    return softplus(delta) if delta_softplus else delta


def step_slope(delta, delta_bias=None, *, delta_softplus: bool):
    """Return the derivative of `step_size` in delta, or in delta_bias."""
    if not delta_softplus:
        return 1.0
    return lax.logistic(delta if delta_bias is None else delta + delta_bias)


def finish(s, u, D=None, z=None) -> jax.Array:
    """Return (s + D u) silu(z), each part optional."""
    if D is not None:
        s = s + D * u
    return s if z is None else s * silu(z)
