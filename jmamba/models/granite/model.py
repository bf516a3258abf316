"""The Granite 4 H language model."""

from jmamba.models.granite.config import GraniteConfig
from jmamba.models.hybrid.model import HybridLM


class GraniteLM(HybridLM):
    """A Granite 4 H language model; its arguments are `LanguageModel`'s.

    Blocks of Mamba-2 or of attention without rotations, each with a feed-forward layer;
    embeddings, what blocks add, scores and logits are scaled by numbers of the
    configuration.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> config = GraniteConfig(
      ...     vocab_size=256, d_model=16, num_layers=3, d_state=8, head_width=8,
      ...     num_query_heads=4, num_kv_heads=2, d_feed_forward=24,
      ...     layer_kinds=("mamba", "attention", "mamba"),
      ... )
      >>> model = GraniteLM(config, rngs=nnx.Rngs(0))
      >>> tokens = jnp.array([list(b"hello")])
      >>> out = model(tokens[:, :4])  # prefill, then one step
      >>> step = model(tokens[:, 4:], cache=out.cache)
      >>> whole = model(tokens).logits
      >>> bool(jnp.allclose(step.logits[:, -1], whole[:, -1], atol=1e-5))
      True

    References:
      IBM, "Granite 4.0" (model cards of granite-4.0-h-350m and -1b); Dao & Gu,
      "Transformers are SSMs", arXiv 2405.21060, section 9.2.3, for such hybrids.
    """

    config: GraniteConfig
    is_fused = True
