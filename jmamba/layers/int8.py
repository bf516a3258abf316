"""Weights in 8 bits: whole numbers, and the size of one step for each output."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba_kernels import accumulation_dtype

STEPS = 127
"""Steps from 0 to the largest weight of an output, in both directions."""


class Int8Weights(NamedTuple):
    """A matrix W = values steps, rounded to whole numbers of steps.

    A parameter may hold it in an array's stead: `parameter[...]` is the matrix.

    Attributes:
      values: int8, as W; or of one layer, not yet taken.
      steps: as W, of size 1 along the axis of inputs.
    """

    values: Any
    steps: Float[Array, "..."]

    def __getitem__(self, index: Any) -> Any:  # pyright: ignore
        """Return the matrix, or a part of it."""
        return (self.values[...].astype(self.dtype) * self.steps)[index]

    def look_up(self, rows: Any) -> Array:
        """Return some rows of the matrix of a table."""
        return self.values[rows].astype(self.dtype) * self.steps[rows]

    @property
    def dtype(self) -> Any:
        """Dtype of the matrix."""
        return self.steps.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the matrix."""
        return self.values.shape

    @property
    def ndim(self) -> int:
        """Axes of the matrix."""
        return self.values.ndim


def round_weights(W: Float[Array, "..."], *, inputs: int) -> Int8Weights:
    """Return weights in whole numbers of steps; off by half a step at most.

        steps[d] = max_m |W[m, d]| / 127;  values = round(W / steps)

    Args:
      W: a matrix, or those of stacked layers.
      inputs: its axis of inputs.

    Examples:
      >>> W = round_weights(jnp.array([[1.0, -2.0], [0.5, 1.0]]), inputs=0)
      >>> W.values.tolist()
      [[127, -127], [64, 64]]
    """
    dtype = accumulation_dtype(W.dtype)
    steps = jnp.max(jnp.abs(W.astype(dtype)), axis=inputs, keepdims=True) / STEPS
    steps = jnp.where(steps == 0, 1, steps).astype(dtype)
    values = jnp.round(W.astype(dtype) / steps)
    return Int8Weights(values.astype(jnp.int8), steps)


def value_of(parameter: Any) -> Any:
    """Return what a parameter holds: an array, or what stands for one.

    Flax has `get_value` from 0.12.1 on.
    """
    if hasattr(nnx.Variable, "get_value"):
        return parameter.get_value()
    return parameter.value


def split_steps(weights: Any, *, inputs: int) -> tuple[Any, Any]:
    """Return what to multiply inputs with, and then the products, or None.

    Args:
      weights: an array, `LayerWeights` or `Int8Weights`.
      inputs: its axis of inputs.
    """
    if not isinstance(weights, Int8Weights):
        return weights, None
    return weights.values, jnp.squeeze(weights.steps, inputs)


def stretch(
    products: Float[Array, "*b d"], steps: Float[Array, "d"] | None
) -> Float[Array, "*b d"]:
    """Return products with whole numbers of steps as those with weights.

    Args:
      products: in any floating dtype.
      steps: of each output; None where the weights were no steps.
    """
    if steps is None:
        return products
    return products * steps.astype(products.dtype).reshape(
        (1,) * (products.ndim - 1) + (-1,)
    )
