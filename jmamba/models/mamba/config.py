"""Sizes and choices of a Mamba language model."""

import dataclasses

from jmamba.layers.fields import check_fields
from jmamba.layers.sizes import MixerSizes
from jmamba.models.config import NEOX_TOKENS, LanguageModelConfig, Released
from jmamba.refinements.signs import GateSigns, check_definite

RELEASED = {
    f"mamba-{name}": {"d_model": width, "num_layers": layers, "vocab_size": 50280}
    | NEOX_TOKENS
    for name, width, layers in (
        ("130m", 768, 24),
        ("370m", 1024, 48),
        ("790m", 1536, 48),
        ("1.4b", 2048, 48),
        ("2.8b", 2560, 64),
    )
} | {
    "falcon-mamba-7b": {
        "vocab_size": 65024,
        "d_model": 4096,
        "num_layers": 64,
        "mixer_rms_eps": 1e-6,
        "tie_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 11,
        "pad_token_id": 11,
    }
}
"""Name -> fields."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MambaConfig(GateSigns, MixerSizes, Released, LanguageModelConfig):
    """Describe a Mamba-1 or Falcon-Mamba language model.

    Its fields are those of `LanguageModelConfig` (vocab_size, d_model, num_layers and
    what is around the blocks), of `MixerSizes` (d_state, d_conv, ...) and of
    `GateSigns`, the refinement of B and C.

    Raises:
      ValueError: a field is of another type or not in its range, or a choice is
        unknown or cannot be.

    Examples:
      >>> config = MambaConfig(vocab_size=256, d_model=64, num_layers=2)
      >>> config.d_inner, config.dt_rank
      (128, 4)
      >>> MambaConfig.named("mamba-130m").num_layers
      24

    References:
      Gu & Dao, "Mamba", arXiv 2312.00752, sections 3.4 and 3.6.
      Zuo et al., "Falcon Mamba", arXiv 2410.05355, section 3.
      Vo et al., arXiv 2410.03292, section 5.1, for definite gates.
    """

    released = RELEASED

    def __post_init__(self):
        """Check all fields and fill in the derived sizes."""
        self.check_vocabulary()
        check_fields(self)
        self.derive_sizes()
        check_definite(self, self.d_state, self.d_inner)

    @property
    def is_falcon(self) -> bool:
        """Whether dt, B and C are normalised, as in Falcon-Mamba."""
        return self.mixer_rms_eps is not None
