"""The Mamba mixer and its block: where the selective parameters are made and used."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array, Float, Int

from jmamba.layers.freezing import NOTHING, Frozen
from jmamba.layers.gamma_rule import call_linear
from jmamba.layers.norm import Precision, RMSNorm
from jmamba.layers.selection import MixerConfig, Selection, make_linear, run_ssm
from jmamba.models.mamba.config import MambaConfig
from jmamba.types import LayerCache, SSMInputs


class Mixer(Selection):
    """The mixer of one block: projections, convolution and selective scan.

    `ssm_inputs` is the only place that makes selective parameters; the forward pass and
    every analysis call it.

    References:
      Gu & Dao, "Mamba", arXiv 2312.00752, section 3.4 and figure 3.
      Zuo et al., "Falcon Mamba", arXiv 2410.05355, section 3.
    """

    def __init__(self, config: MambaConfig, *, precision: Precision, rngs: nnx.Rngs):
        self.in_proj = make_in_proj(config, precision=precision, rngs=rngs)
        super().__init__(config, precision=precision, rngs=rngs)
        self.out_proj = make_out_proj(config, precision=precision, rngs=rngs)

    def ssm_inputs(
        self,
        x: Float[Array, "b l m"],
        *,
        conv_state: Float[Array, "b d _"] | None = None,
        lengths: Int[Array, "b"] | None = None,
        segment_ids: Int[Array, "b l"] | None = None,
        frozen: Frozen = NOTHING,
    ) -> SSMInputs:
        """Make the selective parameters of a layer from its normalised input.

            x, z = split(W_in x);  u = silu(conv(x));  dt, B, C = split(W_x u)
            delta = softplus(W_dt dt + dt_bias);  A = -exp(A_log)

        Falcon-Mamba divides dt, B and C by their RMS before W_dt.

        Args:
          x: normalised input.
          conv_state: the k-1 convolution inputs before the first token.
          lengths: tokens per row, the rest being padding on the right: padding gets
            delta = 0, which leaves the state as it is.
          segment_ids: packed sequences, see `causal_conv1d`.
          frozen: what derivatives take for constants.

        Returns:
          All operands of `selective_scan`; delta is positive and float32.
        """
        x = call_linear(self.in_proj, x, frozen.gammas.in_proj)
        x, z = jnp.split(x, 2, axis=-1)
        return self.select(
            x,
            z,
            conv_state=conv_state,
            lengths=lengths,
            segment_ids=segment_ids,
            frozen=frozen,
        )

    def mix(
        self,
        ssm: SSMInputs,
        *,
        ssm_state: Float[Array, "b d n"] | None = None,
        segment_ids: Int[Array, "b l"] | None = None,
        frozen: Frozen = NOTHING,
    ) -> tuple[Float[Array, "b l m"], Float[Array, "b d n"]]:
        """Run the recurrence on selective parameters and project its output.

        Returns:
          The mixer's output and the state after the last token.
        """
        y, last_state = run_ssm(
            ssm, ssm_state=ssm_state, segment_ids=segment_ids, frozen=frozen
        )
        return call_linear(self.out_proj, y, frozen.gammas.out_proj), last_state


def make_in_proj(config: MixerConfig, *, precision: Precision, rngs: nnx.Rngs):
    """Return the projection to the convolution's and the gate's argument."""
    return make_linear(
        config.d_model,
        2 * config.d_inner,
        use_bias=config.use_bias,
        precision=precision,
        rngs=rngs,
    )


def make_out_proj(config: MixerConfig, *, precision: Precision, rngs: nnx.Rngs):
    """Return the projection back, so small that the residual stream keeps its scale."""
    shrink = config.num_layers**-0.5
    return make_linear(
        config.d_inner,
        config.d_model,
        use_bias=config.use_bias,
        kernel_init=initializers.variance_scaling(shrink**2 / 3, "fan_in", "uniform"),
        precision=precision,
        rngs=rngs,
    )


class BlockOutput(NamedTuple):
    """The residual stream after a block, and all that the block made on the way."""

    x: Float[Array, "b l m"]
    ssm: SSMInputs
    cache: LayerCache


class Block(nnx.Module):
    """One residual block: x + mixer(norm(x))."""

    def __init__(self, config: MambaConfig, *, precision: Precision, rngs: nnx.Rngs):
        self.norm = RMSNorm(config.d_model, eps=config.norm_eps, precision=precision)
        self.mixer = Mixer(config, precision=precision, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b l m"],
        *,
        cache: LayerCache | None = None,
        lengths: Int[Array, "b"] | None = None,
        segment_ids: Int[Array, "b l"] | None = None,
        frozen: Frozen = NOTHING,
    ) -> BlockOutput:
        """Return x + mixer(norm(x)) with everything an analysis needs.

        Args:
          x: the residual stream.
          cache: what the layer remembers of earlier tokens.
          lengths: tokens per row, the rest being padding on the right.
          segment_ids: packed sequences.
          frozen: what derivatives take for constants.
        """
        conv_state, ssm_state = (None, None) if cache is None else cache
        ssm = self.mixer.ssm_inputs(
            self.norm(x, frozen=frozen.norm),
            conv_state=conv_state,
            lengths=lengths,
            segment_ids=segment_ids,
            frozen=frozen,
        )
        out, last_state = self.mixer.mix(
            ssm, ssm_state=ssm_state, segment_ids=segment_ids, frozen=frozen
        )
        cache = LayerCache(ssm.conv_state, last_state)
        return BlockOutput(x + out.astype(x.dtype), ssm, cache)
