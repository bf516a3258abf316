"""Softplus and silu with their derivatives, written to run inside Pallas kernels.

Plain `jnp` on arrays of the dtype of the state. Every form is accurate in relative
error for arguments of both signs, however large.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def sigmoid(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Return 1 / (1 + exp(-x)), the derivative of softplus."""
    return 1.0 / (1.0 + jnp.exp(-x))


def log1p_of_fraction(e: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Return log(1 + e) for 0 <= e <= 1, for backends without log1p.

        log(1 + e) = 2 artanh(s) = 2 s (1 + s^2/3 + s^4/5 + ...),    s = e / (2 + e)

    s is at most 1/3, so that seven terms leave a relative error of 1.4e-8.
    """
    s = e / (2.0 + e)
    square = s * s
    total = square * (1 / 13) + 1 / 11
    for odd in (9, 7, 5, 3, 1):
        total = total * square + 1 / odd
    return 2.0 * s * total


def softplus_by_series(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Return log(1 + exp(x)) as max(x, 0) + log(1 + exp(-|x|)): no overflow.

    Far below zero the second term keeps what 1 + exp(x) would round away.
    """
    return jnp.maximum(x, 0.0) + log1p_of_fraction(jnp.exp(-jnp.abs(x)))


def silu_by_exponential(z: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Return z sigmoid(z)."""
    return z * sigmoid(z)


def silu_and_slope(
    z: Float[Array, "*s"],
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """Return silu(z) and its derivative sigmoid(z) (1 + z (1 - sigmoid(z)))."""
    gate = sigmoid(z)
    return z * gate, gate * (1.0 + z * (1.0 - gate))
