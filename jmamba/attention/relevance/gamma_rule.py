"""The generalised gamma rule: linear maps whose derivatives favour what agrees."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Gammas:
    """Say how much more agreeing contributions count in each linear map; 0 for LRP-0.

    Attributes:
      conv: in the causal convolution.
      patch: in the embedding of patches, which only pixels' relevance passes.
      in_proj: in the projection to the convolution's and the gate's argument.
      out_proj: in the projection back to the residual stream.

    Raises:
      ValueError: a gamma is negative or not finite.

    Examples:
      >>> Gammas(conv=0.25).out_proj
      0.0

    References:
      Jafari et al., "MambaLRP", arXiv 2406.07592, appendix on the rules of Vim.
    """

    conv: float = 0.0
    patch: float = 0.0
    in_proj: float = 0.0
    out_proj: float = 0.0

    def __post_init__(self):
        """Check the choices."""
        for name, gamma in dataclasses.asdict(self).items():
            if not 0 <= gamma < float("inf"):
                raise ValueError(f"{name}={gamma}: give a gamma of at least 0.")

    def __call__(
        self, place: str, run: Callable[[Any], Float[Array, "..."]], operands: Any
    ) -> Float[Array, "..."]:
        """Return run(operands), differentiated by `gamma_rule` with the place's gamma.

        Args:
          place: the name of one of the attributes.
          run: a linear map, with its weights and bias among the operands.
          operands: a pytree of arrays.
        """
        gamma = getattr(self, place)
        if gamma == 0:
            return run(operands)
        return gamma_rule(run(operands), run(jax.tree.map(jnp.abs, operands)), gamma)


def gamma_rule(
    z: Float[Array, "*z"], magnitude: Float[Array, "*z"], gamma: float
) -> Float[Array, "*z"]:
    """Return z, differentiated by the generalised gamma rule.

    Of z = sum_i x_i w_i + b let P be the sum of the positive terms and N that of the
    negative ones. With

        z~ = z + gamma P  where z > 0,  z + gamma N  where z < 0

    the output z~ constant(z / z~) has the value z and derivatives in which terms of the
    sign of z count 1 + gamma times. As P + N = z and P - N = sum_i |x_i w_i| + |b|,

        z~ = (1 + gamma / 2) z + gamma / 2 sign(z) magnitude

    so that a second evaluation, of magnitudes, is enough, and |z~| >= |z|: the quotient
    is at most 1. Where z is 0, it is 0.

    Args:
      z: what the linear map puts out, bias included.
      magnitude: what the same map of |w| and |b| puts out for |x|.
      gamma: how much more terms of the sign of z count.

    Examples:
      >>> def linear(x, w):
      ...     return gamma_rule(x @ w, abs(x) @ abs(w), 1.0)
      >>> x, w = jnp.array([1.0, 2.0]), jnp.array([5.0, -1.0])
      >>> float(linear(x, w))
      3.0
      >>> (x * jax.grad(linear)(x, w)).tolist()  # 3 (10, -2) / 8, in sum 3
      [3.75, -0.75]
    """
    half = jnp.asarray(gamma / 2, z.dtype)
    sign = jax.lax.stop_gradient(jnp.sign(z))
    larger = (1 + half) * z + half * sign * magnitude
    value, constant = jax.lax.stop_gradient((z, larger))
    quotient = value / jnp.where(constant == 0, 1, constant)
    return value + quotient * (larger - constant)
