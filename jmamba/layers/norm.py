"""RMS norm, and the dtypes of a model."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba_kernels import accumulation_dtype


class Precision(NamedTuple):
    """Dtypes of a model: `param` of stored weights, `compute` of activations.

    A_log, D and the step-size bias are float32 at least, whatever `param` says: the
    recurrence is sensitive to them.
    """

    param: jnp.dtype
    compute: jnp.dtype

    @property
    def sensitive(self):
        """Dtype of A_log, D and the step-size bias."""
        return accumulation_dtype(self.param)


def rms_norm(
    x: Float[Array, "... c"],
    eps: float,
    *,
    over: Float[Array, "... c"] | None = None,
    frozen: bool = False,
) -> Float[Array, "... c"]:
    """Return x / sqrt(mean(x^2) + eps) over the last axis, in float32 or better.

    Args:
      x: what to normalise.
      eps: keeps the division finite.
      over: what the RMS is of, if not of x.
      frozen: whether derivatives take 1/rms for a constant.
    """
    x = x.astype(accumulation_dtype(x.dtype))
    over = x if over is None else over.astype(x.dtype)
    scale = jax.lax.rsqrt(jnp.mean(over * over, axis=-1, keepdims=True) + eps)
    return x * (jax.lax.stop_gradient(scale) if frozen else scale)


class RMSNorm(nnx.Module):
    """RMS norm with a learned scale, computed in float32 or better.

    Args:
      size: numbers that are normalised.
      eps: keeps the division finite.
      groups: how many parts of neighbours have an RMS of their own.
      offset: what is added to the scale, which is 1 at first altogether.
      precision: dtypes.
    """

    letters: ClassVar[Mapping[str, str]] = {"scale": "m"}

    def __init__(
        self,
        size: int,
        *,
        eps: float,
        groups: int = 1,
        offset: float = 0.0,
        precision: Precision,
    ):
        self.scale = nnx.Param(jnp.full((size,), 1 - offset, precision.param))
        self.eps, self.groups, self.offset = eps, groups, offset
        self.compute = precision.compute

    def __call__(
        self,
        x: Float[Array, "... m"],
        *,
        over: Float[Array, "... m"] | None = None,
        frozen: bool = False,
    ) -> Float[Array, "... m"]:
        """Return x / rms(x) (offset + scale) in the compute dtype; see `rms_norm`."""

        def split(x):
            return x.reshape(*x.shape[:-1], self.groups, -1)

        over = None if over is None else split(over)
        y = rms_norm(split(x), self.eps, over=over, frozen=frozen).reshape(x.shape)
        scale = self.scale[...].astype(y.dtype)
        if self.offset:
            scale = scale + jnp.asarray(self.offset, y.dtype)
        return (y * jnp.broadcast_to(scale, y.shape)).astype(self.compute)


class NoNorm(nnx.Module):
    """Stands where blocks have a norm, and leaves what it reads as it is.

    Args:
      precision: dtypes.
    """

    def __init__(self, *, precision: Precision):
        self.compute = precision.compute

    def __call__(self, x: Float[Array, "... m"], **options: object) -> Any:
        """Return x in the compute dtype.

        Args:
          x: what passes.
          **options: of a norm.
        """
        return x.astype(self.compute)
