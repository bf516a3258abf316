"""The Qwen3-Next language model."""

from functools import partial
from typing import Any

from flax import nnx

from jmamba.layers.fused_delta import FusedDeltaNet
from jmamba.layers.gated_attention import GatedAttention
from jmamba.layers.mixer import Mixer
from jmamba.layers.norm import Precision
from jmamba.models.hybrid.config import ATTENTION
from jmamba.models.hybrid.model import HybridLM
from jmamba.models.qwen3_next.config import Qwen3NextConfig


class Qwen3NextLM(HybridLM):
    """A Qwen3-Next language model; its arguments are `LanguageModel`'s.

    Blocks of gated delta nets or of gated attention, each with a layer of experts and
    one beside them that all tokens pass; norms have scales 1 + w.

    Examples:
      >>> import jax.numpy as jnp
      >>> config = Qwen3NextConfig(
      ...     vocab_size=256, d_model=16, num_layers=2, num_value_heads=4, key_width=4,
      ...     num_key_heads=2, num_query_heads=2, rope_width=4, num_experts=4,
      ...     layer_kinds=("delta_experts", "attention_experts"), d_expert=8,
      ...     renormalise_experts=True, share_experts=True, d_shared=8,
      ...     gate_shared=True,
      ... )
      >>> model = Qwen3NextLM(config, rngs=nnx.Rngs(0))
      >>> model(jnp.array([list(b"hello")])).logits.shape
      (1, 5, 256)

    References:
      Qwen Team, "Qwen3-Next" (model card of Qwen3-Next-80B-A3B); Yang, Kautz &
      Hatamizadeh, "Gated Delta Networks", arXiv 2412.06464.
    """

    config: Qwen3NextConfig
    norm_offset = 1.0

    @classmethod
    def make_mixer(
        cls, config: Any, precision: Precision, rngs: nnx.Rngs, kind: str = ATTENTION
    ) -> Mixer:
        """Return the mixer of one block of a kind."""
        make = partial(GatedAttention, config.attention_sizes, eps=config.norm_eps)
        if kind != ATTENTION:
            make = partial(FusedDeltaNet, config.delta_sizes)
        return make(precision=precision, rngs=rngs)
