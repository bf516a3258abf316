"""Linear maps of a model."""

from typing import Any

from flax import nnx
from jax.nn import initializers
from jaxtyping import Array

from jmamba.layers.in_place import LayerWeights, multiply, multiply_row
from jmamba.layers.int8 import split_steps, stretch, value_of
from jmamba.layers.norm import Precision

torch_uniform = initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the initialisation of the released models."""


class Linear(nnx.Linear):
    """A linear map x W + b, of weights in 8 bits, too, and of those of all layers."""

    def __call__(self, inputs: Array, **options: Any) -> Array:  # pyright: ignore
        """Return x W + b."""
        weights = value_of(self.kernel)
        values, steps = split_steps(weights, inputs=-2)
        is_row = isinstance(values, LayerWeights) and inputs.size == inputs.shape[-1]
        if steps is None and not is_row:
            return super().__call__(inputs, **options)
        bias = [] if self.bias is None else [self.bias[...]]
        x, *bias = self.promote_dtype((inputs, *bias), dtype=self.dtype)
        if is_row:
            y = multiply_row(x.reshape(-1), *values).reshape(*x.shape[:-1], -1)
        else:
            y = multiply(x, values[...])
        y = stretch(y, steps)
        return y + bias[0].reshape((1,) * (y.ndim - 1) + (-1,)) if bias else y


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
