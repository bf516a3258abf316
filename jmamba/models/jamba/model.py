"""The Jamba language model."""

from typing import Any

from flax import nnx

from jmamba.layers.jamba import JambaMixer
from jmamba.layers.mixer import Mixer
from jmamba.layers.norm import Precision
from jmamba.models.hybrid.config import ATTENTION
from jmamba.models.hybrid.model import HybridLM
from jmamba.models.jamba.config import JambaConfig


class JambaLM(HybridLM):
    """A Jamba language model; its arguments are `LanguageModel`'s.

    Blocks of Mamba-1, with norms in its selection, or of attention without rotations,
    each with a feed-forward layer or one of experts.

    Examples:
      >>> import jax.numpy as jnp
      >>> config = JambaConfig(
      ...     vocab_size=256, d_model=16, num_layers=3, d_state=4, num_query_heads=4,
      ...     num_kv_heads=2, d_feed_forward=24,
      ...     layer_kinds=("mamba", "attention", "mamba"),
      ... )
      >>> model = JambaLM(config, rngs=nnx.Rngs(0))
      >>> model(jnp.array([list(b"hello")])).logits.shape
      (1, 5, 256)

    References:
      Lieber et al., "Jamba", arXiv 2403.19887.
    """

    config: JambaConfig

    @classmethod
    def make_mixer(
        cls, config: Any, precision: Precision, rngs: nnx.Rngs, kind: str = ATTENTION
    ) -> Mixer:
        """Return the mixer of one block of a kind."""
        if kind == ATTENTION:
            return super().make_mixer(config, precision, rngs, kind)
        return JambaMixer(
            config.mixer_sizes, eps=config.norm_eps, precision=precision, rngs=rngs
        )
