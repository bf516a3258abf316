"""The original hybrid of Mamba-2 and attention."""

from typing import Any

from flax import nnx

from jmamba.layers.convolved_attention import ConvolvedAttention
from jmamba.layers.mixer import Mixer
from jmamba.layers.norm import Precision
from jmamba.models.hybrid.config import ATTENTION
from jmamba.models.hybrid.model import HybridLM
from jmamba.models.mamba2attn.config import Mamba2AttnConfig


class Mamba2AttnLM(HybridLM):
    """An original hybrid of Mamba-2 and attention behind convolutions.

    Its arguments are `LanguageModel`'s. Blocks have no feed-forward layers.

    Examples:
      >>> import jax.numpy as jnp
      >>> config = Mamba2AttnConfig(
      ...     vocab_size=256, d_model=16, num_layers=3, d_state=8, head_width=8,
      ...     num_query_heads=2, rope_width=4,
      ...     layer_kinds=("mamba", "attention", "mamba"),
      ... )
      >>> model = Mamba2AttnLM(config, rngs=nnx.Rngs(0))
      >>> model(jnp.array([list(b"hello")])).logits.shape
      (1, 5, 256)

    References:
      Dao & Gu, "Transformers are SSMs", arXiv 2405.21060, section 9.2.3.
    """

    config: Mamba2AttnConfig

    @classmethod
    def make_mixer(
        cls, config: Any, precision: Precision, rngs: nnx.Rngs, kind: str = ATTENTION
    ) -> Mixer:
        """Return the mixer of one block of a kind."""
        if kind != ATTENTION:
            return super().make_mixer(config, precision, rngs, kind)
        return ConvolvedAttention(
            config.attention_sizes,
            window=config.attention_window,
            precision=precision,
            rngs=rngs,
        )
