"""Which factors of a block count as constants when it is differentiated."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmamba.layers.gamma_rule import Gammas

stop_gradient = jax.lax.stop_gradient


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Say which factors of a forward pass are held constant by its derivatives.

    Values are the same whatever is frozen; only derivatives change. With everything
    frozen a block is linear in its input, with coefficients that depend on the data,
    and its Jacobian is the exact attention of that block.

    Attributes:
      selection: delta, B and C, so that y is linear in u.
      activation: sigma in silu(a) = a sigma(a), after the convolution and in the gate.
      gate: "no" for the product y silu(z) as it is, "whole" for a constant silu(z),
        "half" for half of the derivative to either factor (p/2 + constant p/2).
      norm: 1/rms of the norms.
      gammas: how much more agreeing contributions count in linear maps.

    Examples:
      >>> import jax
      >>> product = lambda y, z: gate(y, z, MAMBA_LRP)
      >>> y, z = jnp.array(3.0), jnp.array(2.0)
      >>> d_y, d_z = jax.grad(product, argnums=(0, 1))(y, z)
      >>> bool(jnp.isclose(y * d_y + z * d_z, product(y, z)))  # what LRP conserves
      True

    References:
      Jafari et al., "MambaLRP", arXiv 2406.07592, section 4.
      Zimerman et al., "Explaining Modern Gated-Linear RNNs via a Unified Implicit
      Attention Formulation", arXiv 2405.16504, section 3.
    """

    selection: bool = False
    activation: bool = False
    gate: Literal["no", "whole", "half"] = "no"
    norm: bool = False
    gammas: Gammas = Gammas()


NOTHING = Frozen()
"""The ordinary derivative."""

UNIFIED = Frozen(selection=True, activation=True, gate="whole", norm=True)
"""Unified implicit attention: a block is linear in its input."""

MAMBA_LRP = Frozen(selection=True, activation=True, gate="half", norm=True)
"""MambaLRP: a block is homogeneous of degree 1 in its input and its biases."""


def silu(a: Float[Array, "*a"], frozen: Frozen) -> Float[Array, "*a"]:
    """Return a sigma(a), the second factor constant if activations are frozen."""
    return a * stop_gradient(jax.nn.sigmoid(a)) if frozen.activation else jax.nn.silu(a)


def gate(
    y: Float[Array, "*y"], z: Float[Array, "*y"], frozen: Frozen
) -> Float[Array, "*y"]:
    """Return y silu(z), differentiated as `frozen` says."""
    if frozen.gate == "whole":
        return y * stop_gradient(jax.nn.silu(z))
    product = y * silu(z, frozen)
    if frozen.gate == "half":
        half = product * jnp.asarray(0.5, product.dtype)
        return half + stop_gradient(half)
    return product
