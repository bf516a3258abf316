"""Sizes and choices of a Mamba-2 language model."""

import dataclasses

from jmamba.layers.fields import check_fields
from jmamba.layers.sizes import HeadSizes
from jmamba.models.config import LanguageModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mamba2Config(HeadSizes, LanguageModelConfig):
    """Describe a Mamba-2 language model.

    Its fields are those of `LanguageModelConfig` (vocab_size, d_model, num_layers and
    what is around the blocks) and of `HeadSizes` (d_state, head_width, ...); `norm_eps`
    is that of all norms.

    Raises:
      ValueError: a field is of another type or not in its range, or heads do not
        divide channels, or groups heads.

    Examples:
      >>> config = Mamba2Config(vocab_size=256, d_model=64, num_layers=2)
      >>> config.d_inner, config.num_heads
      (128, 2)
      >>> Mamba2Config.named("mamba2-130m").num_heads
      24

    References:
      Dao & Gu, "Transformers are SSMs", arXiv 2405.21060, section 7.
    """

    def __post_init__(self):
        """Check all fields and fill in the derived sizes."""
        self.check_vocabulary()
        check_fields(self)
        self.derive_sizes()

    @classmethod
    def named(cls, name: str) -> "Mamba2Config":
        """Return the configuration of a released model by its short name.

        Raises:
          ValueError: the name is unknown; the message lists the known ones.
        """
        if name not in _NAMED:
            raise ValueError(
                f"Unknown configuration {name!r}; known are {', '.join(_NAMED)}."
            )
        d_model, num_layers = _NAMED[name]
        return cls(
            vocab_size=50288,
            unpadded_vocab_size=50277,
            d_model=d_model,
            num_layers=num_layers,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )


_NAMED = {
    "mamba2-130m": (768, 24),
    "mamba2-370m": (1024, 48),
    "mamba2-780m": (1536, 48),
    "mamba2-1.3b": (2048, 48),
    "mamba2-2.7b": (2560, 64),
}
"""Name -> width and layers."""
