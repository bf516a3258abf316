"""The Falcon-H1 language model."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.layers.attention import SelfAttention
from jmamba.layers.mixer import Mixer
from jmamba.layers.norm import Precision
from jmamba.layers.parallel import ParallelMixer
from jmamba.layers.scaled_mamba2 import ScaledMamba2Mixer
from jmamba.models.falcon_h1.config import FalconH1Config
from jmamba.models.hybrid.model import HybridLM


class FalconH1LM(HybridLM):
    """A Falcon-H1 language model; its arguments are `LanguageModel`'s.

    In each block Mamba-2 and attention read the same and are added; a feed-forward
    layer follows.

    Examples:
      >>> config = FalconH1Config(
      ...     vocab_size=256, d_model=16, num_layers=2, d_state=8, head_width=8,
      ...     num_query_heads=4, num_kv_heads=2, rope_width=4, d_feed_forward=24,
      ...     key_multiplier=0.5,
      ... )
      >>> model = FalconH1LM(config, rngs=nnx.Rngs(0))
      >>> model(jnp.array([list(b"hello")])).logits.shape
      (1, 5, 256)

    References:
      Zuo et al., "Falcon-H1", arXiv 2507.22448.
    """

    config: FalconH1Config

    @classmethod
    def make_mixer(
        cls, config: Any, precision: Precision, rngs: nnx.Rngs, kind: str = "parallel"
    ) -> Mixer:
        """Return the two mixers of one block."""
        parts: dict[str, Any] = {"precision": precision, "rngs": rngs}
        recurrent = ScaledMamba2Mixer(
            config.head_sizes,
            in_scale=config.ssm_in_multiplier,
            scales=config.ssm_multipliers,
            **parts,
        )
        sizes = config.attention_sizes  # keys are scaled where scores are
        scale = sizes.attention_scale or sizes.query_width**-0.5
        sizes = dataclasses.replace(
            sizes, attention_scale=scale * config.key_multiplier
        )
        return ParallelMixer(
            recurrent,
            SelfAttention(sizes, **parts),
            scales=(
                config.ssm_out_multiplier,
                config.attention_out_multiplier,
                config.attention_in_multiplier,
            ),
        )

    @classmethod
    def feed_forward_options(cls, config: Any) -> dict[str, Any]:
        """Return what is special of the feed-forward layers."""
        gate, out = config.feed_forward_multipliers
        return {"gate_scale": gate, "out_scale": out}

    def scale_logits(self, logits: Float[Array, "*b v"]) -> Float[Array, "*b v"]:
        """Return logits times the configuration's multiplier."""
        logits = super().scale_logits(logits)
        return logits * jnp.asarray(self.config.head_multiplier, logits.dtype)
