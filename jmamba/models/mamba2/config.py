"""Sizes and choices of a Mamba-2 language model."""

import dataclasses

from jmamba.layers.fields import check_fields
from jmamba.layers.sizes import HeadSizes
from jmamba.models.config import NEOX_TOKENS, LanguageModelConfig, Released

RELEASED = {
    f"mamba2-{name}": {"d_model": width, "num_layers": layers, "vocab_size": 50288}
    | NEOX_TOKENS
    for name, width, layers in (
        ("130m", 768, 24),
        ("370m", 1024, 48),
        ("780m", 1536, 48),
        ("1.3b", 2048, 48),
        ("2.7b", 2560, 64),
    )
}
"""Name -> fields."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mamba2Config(HeadSizes, Released, LanguageModelConfig):
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

    released = RELEASED

    def __post_init__(self):
        """Check all fields and fill in the derived sizes."""
        self.check_vocabulary()
        check_fields(self)
        self.derive_sizes()
