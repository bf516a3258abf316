"""Sizes and choices of a Granite 4 H language model."""

import dataclasses
from typing import ClassVar

from jmamba.models.hybrid.config import (
    ATTENTION,
    MAMBA,
    HybridConfig,
    with_experts,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraniteConfig(HybridConfig):
    """Describe a Granite 4 H language model; see `HybridConfig`.

    Layers are of kind "mamba" or "attention", or of these with "_experts" behind.

    Examples:
      >>> config = GraniteConfig(
      ...     vocab_size=256, d_model=32, num_layers=2, head_width=16,
      ...     layer_kinds=("mamba", "attention"), residual_multiplier=0.25,
      ... )
      >>> config.layer_kinds, config.num_heads
      (('mamba', 'attention'), 4)
    """

    known_kinds: ClassVar[tuple[str, ...]] = with_experts((MAMBA, ATTENTION))
