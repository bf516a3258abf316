"""Which factors of a block count as constants when it is differentiated."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.layers.places import PASS_BY, Watch

stop_gradient = jax.lax.stop_gradient


@runtime_checkable
class LinearRule(Protocol):
    """Says how the linear maps of a model are differentiated; values stay the same."""

    def __call__(
        self, place: str, run: Callable[[Any], Float[Array, "..."]], operands: Any
    ) -> Float[Array, "..."]:
        """Return run(operands), with derivatives of the rule's own.

        Args:
          place: "patch", "in_proj", "conv" or "out_proj".
          run: an affine map of its input, with weights and bias among its operands.
          operands: a pytree of arrays.
        """
        ...


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
      linear: how linear maps are differentiated, such as the gamma rule; None for the
        ordinary derivative.

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
    linear: LinearRule | None = None


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
    y: Float[Array, "*y"],
    z: Float[Array, "*y"],
    frozen: Frozen,
    *,
    at: Watch = PASS_BY,
) -> Float[Array, "*y"]:
    """Return y silu(z), differentiated as `frozen` says.

    Args:
      y: what is gated.
      z: the gate's argument.
      frozen: what derivatives take for constants.
      at: who edits and reads silu(z).
    """
    if frozen.gate == "whole":
        return y * at("gate", stop_gradient(jax.nn.silu(z)))
    product = y * at("gate", silu(z, frozen))
    if frozen.gate == "half":
        half = product * jnp.asarray(0.5, product.dtype)
        return half + stop_gradient(half)
    return product


def call_linear(
    layer: nnx.Linear | nnx.Conv, x: Float[Array, "..."], place: str, frozen: Frozen
) -> Float[Array, "..."]:
    """Return layer(x), differentiated as `frozen` says of linear maps.

    Args:
      layer: a linear map with a kernel and perhaps a bias.
      x: its input.
      place: which map it is, see `LinearRule`.
      frozen: what derivatives take for constants.
    """
    if frozen.linear is None:
        return layer(x)
    graphdef, state = nnx.split(layer)

    def run(operands):
        state, x = operands
        return nnx.merge(graphdef, state)(x)

    return frozen.linear(place, run, (state, x))
