"""The Mamba-2 language model."""

from flax import nnx

from jmamba.layers.mamba2 import Mamba2Mixer
from jmamba.layers.norm import Precision
from jmamba.models.language_model import LanguageModel
from jmamba.models.mamba2.config import Mamba2Config


class Mamba2LM(LanguageModel):
    """A Mamba-2 language model; its arguments are `LanguageModel`'s.

    Examples:
      >>> import jax.numpy as jnp
      >>> config = Mamba2Config(
      ...     vocab_size=256, d_model=16, num_layers=2, d_state=8, head_width=8
      ... )
      >>> model = Mamba2LM(config, rngs=nnx.Rngs(0))
      >>> tokens = jnp.array([list(b"hello")])
      >>> model(tokens).logits.shape
      (1, 5, 256)
      >>> cache = model(tokens[:, :4]).cache  # prefill, then one step
      >>> step = model(tokens[:, 4:], cache=cache)
      >>> bool(jnp.allclose(step.logits[:, -1], model(tokens).logits[:, -1], atol=1e-5))
      True

    References:
      Dao & Gu, "Transformers are SSMs", arXiv 2405.21060.
    """

    config: Mamba2Config

    @classmethod
    def make_mixer(
        cls, config: Mamba2Config, precision: Precision, rngs: nnx.Rngs
    ) -> Mamba2Mixer:
        """Return the mixer of one block."""
        return Mamba2Mixer(config.head_sizes, precision=precision, rngs=rngs)
