"""Linear maps of a model."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array

from jmamba.layers.in_place import LayerWeights, multiply_row
from jmamba.layers.norm import Precision

torch_uniform = initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the initialisation of the released models."""


class Linear(nnx.Linear):
    """A linear map that takes `LayerWeights`, too: x W, and a bias or none."""

    def __call__(self, inputs: Array, out_sharding: Any = None) -> Array:
        """Return x W + b."""
        weights = self.kernel.get_value()
        if not isinstance(weights, LayerWeights) or inputs.size != inputs.shape[-1]:
            return super().__call__(inputs, out_sharding=out_sharding)
        x, *bias = self.promote_dtype(
            (inputs, *([] if self.bias is None else [self.bias[...]])),
            dtype=self.dtype or jnp.result_type(inputs, weights.stacked),
        )
        y = multiply_row(x.reshape(-1), *weights)
        return sum(bias, y.reshape(*x.shape[:-1], -1))


def make_linear(
    size_in: int,
    size_out: int,
    *,
    use_bias: bool = False,
    kernel_init=torch_uniform,
    precision: Precision,
    rngs: nnx.Rngs,
) -> Linear:
    """Return a linear map in a model's precision."""
    return Linear(
        size_in,
        size_out,
        use_bias=use_bias,
        kernel_init=kernel_init,
        dtype=precision.compute,
        param_dtype=precision.param,
        rngs=rngs,
    )
