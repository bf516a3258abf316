"""The Bamba language model."""

from jmamba.models.bamba.config import BambaConfig
from jmamba.models.hybrid.model import HybridLM


class BambaLM(HybridLM):
    """A Bamba language model; its arguments are `LanguageModel`'s.

    Blocks of Mamba-2 or of attention, half of whose heads' numbers are rotated, each
    with a feed-forward layer.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> config = BambaConfig(
      ...     vocab_size=256, d_model=16, num_layers=3, d_state=8, head_width=8,
      ...     num_query_heads=4, num_kv_heads=2, rope_width=2, d_feed_forward=24,
      ...     layer_kinds=("mamba", "mamba", "attention"),
      ... )
      >>> model = BambaLM(config, rngs=nnx.Rngs(0))
      >>> model(jnp.array([list(b"hello")])).logits.shape
      (1, 5, 256)

    References:
      IBM, Princeton, CMU & UIUC, "Bamba: inference-efficient hybrid Mamba2 model",
      2024.
    """

    config: BambaConfig
