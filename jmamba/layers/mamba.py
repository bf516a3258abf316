"""The mixer of Mamba-1 and Falcon-Mamba."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array, Float, Int

from jmamba.layers.freezing import NOTHING, Frozen, call_linear
from jmamba.layers.linear import make_linear
from jmamba.layers.mixer import GATE, OpenMixer, Projection
from jmamba.layers.norm import Precision
from jmamba.layers.places import PASS_BY, Place, Watch
from jmamba.layers.recurrence import INSIDE, PARAMETERS
from jmamba.layers.selection import SELECTED, MakeGates, Selection
from jmamba.layers.sizes import HeadSizes, MixerSizes
from jmamba.ops.sharding import split_halves
from jmamba.types import LayerCache
from jmamba_kernels import accumulation_dtype

HALVES = (
    Place("x", "blc", "what the convolution reads", ("hook_in_proj",)),
    PARAMETERS[-1],
)
"""The two halves of what an input is projected to."""

AROUND: Mapping[str, str] = {
    "in_proj.kernel": "md",  # x and z of all channels
    "in_proj.bias": "d",
    "out_proj.kernel": "dm",
    "out_proj.bias": "m",
}
"""Letters of the projections around a mixer's channels."""


class MambaMixer(Selection, OpenMixer):
    """The mixer of one block: projections, convolution and selective scan.

        x, z = split(W_in x);  u = silu(conv(x));  dt, B, C = split(W_x u)
        delta = softplus(W_dt dt + dt_bias);  A = -exp(A_log)
        out = W_out (scan(u, delta, A, B, C, D) silu(z))

    Falcon-Mamba divides dt, B and C by their RMS before W_dt.

    Args:
      sizes: of the mixer.
      make_gates: of `Selection`.
      precision: dtypes.
      rngs: source of the initial weights.

    References:
      Gu & Dao, "Mamba", arXiv 2312.00752, section 3.4 and figure 3.
      Zuo et al., "Falcon Mamba", arXiv 2410.05355, section 3.
    """

    places: ClassVar[tuple[Place, ...]] = (*HALVES, *SELECTED, *INSIDE, GATE)
    letters: ClassVar[Mapping[str, str]] = {**Selection.letters, **AROUND}

    def __init__(
        self,
        sizes: MixerSizes,
        *,
        make_gates: MakeGates | None = None,
        precision: Precision,
        rngs: nnx.Rngs,
    ):
        self.in_proj = make_in_proj(sizes, precision=precision, rngs=rngs)
        super().__init__(sizes, make_gates=make_gates, precision=precision, rngs=rngs)
        self.out_proj = make_out_proj(sizes, precision=precision, rngs=rngs)
        self.window = sizes.d_conv

    def project(  # pyright: ignore[reportIncompatibleMethodOverride] (texts only)
        self,
        x: Float[Array, "b l m"],
        *,
        kept: Float[Array, "b d _"] | None = None,
        lengths: Int[Array, "b"] | None = None,
        segment_ids: Int[Array, "b l"] | None = None,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> Projection:
        """Make the selective parameters of a layer from its normalised input.

        Args:
          x: normalised input.
          kept: the k-1 convolution inputs before the first token.
          lengths: tokens per row, the rest being padding on the right: padding gets
            delta = 0, which leaves the state as it is.
          segment_ids: packed sequences, see `causal_conv1d`.
          frozen: what derivatives take for constants.
          at: who edits and reads what passes.

        Returns:
          A recurrence whose delta is positive and float32, and the last inputs of the
          convolution.
        """
        x = call_linear(self.in_proj, x, "in_proj", frozen)
        x, z = split_halves(x, "bld")
        return self.select(
            at("x", x),
            at("z", z),
            conv_state=kept,
            lengths=lengths,
            segment_ids=segment_ids,
            frozen=frozen,
            at=at,
        )

    def project_out(
        self, y: Float[Array, "b l d"], *, frozen: Frozen = NOTHING
    ) -> Float[Array, "b l m"]:
        """Return W_out y."""
        return call_linear(self.out_proj, y, "out_proj", frozen)

    def empty_cache(self, batch: int, dtype: Any) -> LayerCache:
        """Return zeros for the convolution's inputs and the state."""
        d, n, k = self.sizes.d_inner, self.sizes.d_state, self.sizes.d_conv
        state = jnp.zeros((batch, d, n), accumulation_dtype(dtype))
        return LayerCache(jnp.zeros((batch, d, k - 1), dtype), state)


def make_in_proj(
    sizes: MixerSizes | HeadSizes,
    *,
    size_out: int = 0,
    precision: Precision,
    rngs: nnx.Rngs,
):
    """Return the projection to the convolution's and the gate's argument.

    Args:
      sizes: of the mixer.
      size_out: what it puts out; 0 for two numbers of each channel.
      precision: dtypes.
      rngs: source of the initial weights.
    """
    return make_linear(
        sizes.d_model,
        size_out or 2 * sizes.d_inner,
        use_bias=sizes.use_bias,
        precision=precision,
        rngs=rngs,
    )


def make_out_proj(
    sizes: MixerSizes | HeadSizes, *, precision: Precision, rngs: nnx.Rngs
):
    """Return the projection back, so small that the residual stream keeps its scale."""
    shrink = sizes.num_layers**-0.5
    return make_linear(
        sizes.d_inner,
        sizes.d_model,
        use_bias=sizes.use_bias,
        kernel_init=initializers.variance_scaling(shrink**2 / 3, "fan_in", "uniform"),
        precision=precision,
        rngs=rngs,
    )
