"""The mixer of Mamba-2 with numbers that scale what it projects its input to."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jmamba.layers.freezing import Frozen
from jmamba.layers.mamba2 import Mamba2Mixer
from jmamba.layers.norm import Precision
from jmamba.layers.sizes import HeadSizes


class ScaledMamba2Mixer(Mamba2Mixer):
    """The mixer of Mamba-2 whose input and projections are multiplied with numbers.

        z, x, B, C, dt = split(W_in (a x)) times one number each

    Args:
      sizes: of the mixer.
      in_scale: a.
      scales: of z, x, B, C and dt.
      precision: dtypes.
      rngs: source of the initial weights.

    References:
      Zuo et al., "Falcon-H1", arXiv 2507.22448, section 3.2, on their multipliers.
    """

    def __init__(
        self,
        sizes: HeadSizes,
        *,
        in_scale: float,
        scales: tuple[float, ...],
        precision: Precision,
        rngs: nnx.Rngs,
    ):
        super().__init__(sizes, precision=precision, rngs=rngs)
        self.in_scale, self.scales = in_scale, scales

    def project_in(self, x: Float[Array, "b l m"], frozen: Frozen) -> Any:
        """Return z, x, B, C and dt, one behind the other."""
        sizes = self.sizes
        gates = sizes.num_groups * sizes.d_state
        widths = (sizes.d_inner, sizes.d_inner, gates, gates, sizes.num_heads)
        projected = super().project_in(x * jnp.asarray(self.in_scale, x.dtype), frozen)
        factors = jnp.asarray(np.repeat(self.scales, widths), projected.dtype)
        return projected * factors[None, None]
