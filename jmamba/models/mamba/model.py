"""The Mamba language model."""

from functools import partial

from flax import nnx

from jmamba.layers.mamba import MambaMixer
from jmamba.layers.norm import Precision
from jmamba.models.language_model import LanguageModel
from jmamba.models.mamba.config import MambaConfig
from jmamba.refinements.gates import make_gates


class MambaLM(LanguageModel):
    """A Mamba-1 or Falcon-Mamba language model; its arguments are `LanguageModel`'s.

    Examples:
      >>> import jax.numpy as jnp
      >>> config = MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = MambaLM(config, rngs=nnx.Rngs(0))
      >>> tokens = jnp.array([list(b"hello")])
      >>> model(tokens).logits.shape
      (1, 5, 256)
      >>> cache = model(tokens[:, :4]).cache  # prefill, then one step
      >>> step = model(tokens[:, 4:], cache=cache)
      >>> bool(jnp.allclose(step.logits[:, -1], model(tokens).logits[:, -1], atol=1e-5))
      True

    References:
      Gu & Dao, "Mamba", arXiv 2312.00752.
    """

    config: MambaConfig

    @classmethod
    def make_mixer(
        cls, config: MambaConfig, precision: Precision, rngs: nnx.Rngs
    ) -> MambaMixer:
        """Return the mixer of one block, with gates of the chosen signs."""
        gates = partial(make_gates, config.gate_signs)
        sizes = config.mixer_sizes
        return MambaMixer(sizes, make_gates=gates, precision=precision, rngs=rngs)
