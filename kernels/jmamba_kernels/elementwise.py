"""Softplus and silu with their derivatives, written to run inside Pallas kernels.

Plain `jnp` on arrays of the dtype of the state. Every form is accurate in relative
error for arguments of both signs, however large.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

LOG2_E = 1.4426950408889634
"""exp(x) = 2^(x log2 e): the hardware has powers of two."""


def sigmoid(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Return 1 / (1 + exp(-x)), the derivative of softplus."""
    return 1.0 / (1.0 + jnp.exp(-x))


def softplus(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Return log(1 + exp(x)) as max(x, 0) + log1p(exp(-|x|)): no overflow.

    Far below zero log1p keeps what 1 + exp(x) would round away.
    """
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def silu(z: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Return z sigmoid(z)."""
    return z * sigmoid(z)


def silu_and_slope(
    z: Float[Array, "*s"],
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """Return silu(z) and its derivative sigmoid(z) (1 + z (1 - sigmoid(z)))."""
    gate = sigmoid(z)
    return z * gate, gate * (1.0 + z * (1.0 - gate))
