"""The OLMo-hybrid language model."""

from functools import partial
from typing import Any

from flax import nnx

from jmamba.layers.block import Block
from jmamba.layers.feed_forward import FeedForward
from jmamba.layers.gated_delta import GatedDeltaNet
from jmamba.layers.mixer import Mixer
from jmamba.layers.norm import NoNorm, Precision, RMSNorm
from jmamba.layers.normed_attention import NormedAttention
from jmamba.models.hybrid.config import ATTENTION
from jmamba.models.hybrid.model import HybridLM
from jmamba.models.olmo_hybrid.config import OlmoHybridConfig


class OlmoHybridLM(HybridLM):
    """An OLMo-hybrid language model; its arguments are `LanguageModel`'s.

    Blocks of gated delta nets have norms in front of mixer and feed-forward layer,
    those of attention have them behind.

    Examples:
      >>> import jax.numpy as jnp
      >>> config = OlmoHybridConfig(
      ...     vocab_size=256, d_model=16, num_layers=3, num_value_heads=2, key_width=4,
      ...     num_query_heads=4, d_feed_forward=24,
      ...     layer_kinds=("delta", "delta", "attention"),
      ... )
      >>> model = OlmoHybridLM(config, rngs=nnx.Rngs(0))
      >>> tokens = jnp.array([list(b"hello")])
      >>> out = model(tokens[:, :4])  # prefill, then one step
      >>> step = model(tokens[:, 4:], cache=out.cache)
      >>> whole = model(tokens).logits
      >>> bool(jnp.allclose(step.logits[:, -1], whole[:, -1], atol=1e-5))
      True

    References:
      Ai2, "OLMo Hybrid" (model card of OLMo-Hybrid-7B); Yang, Kautz & Hatamizadeh,
      "Gated Delta Networks", arXiv 2412.06464.
    """

    config: OlmoHybridConfig

    @classmethod
    def make_block(
        cls, config: Any, precision: Precision, kind: str, rngs: nnx.Rngs
    ) -> Block:
        """Return one block."""
        if kind != ATTENTION:
            return super().make_block(config, precision, kind, rngs)
        feed_forward = FeedForward(
            config.d_feed_forward,
            NoNorm(precision=precision),
            out_norm=RMSNorm(config.d_model, eps=config.norm_eps, precision=precision),
            d_model=config.d_model,
            precision=precision,
            rngs=rngs,
        )
        mixer = cls.make_mixer(config, precision, rngs, kind)
        return Block(NoNorm(precision=precision), mixer, feed_forward=feed_forward)

    @classmethod
    def make_mixer(
        cls, config: Any, precision: Precision, rngs: nnx.Rngs, kind: str = ATTENTION
    ) -> Mixer:
        """Return the mixer of one block of a kind."""
        make = partial(NormedAttention, config.attention_sizes, eps=config.norm_eps)
        if kind != ATTENTION:
            make = partial(GatedDeltaNet, config.delta_sizes)
        return make(precision=precision, rngs=rngs)
