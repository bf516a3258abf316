"""Sizes and choices of a Granite 4 H language model."""

import dataclasses

from jmamba.models.hybrid.config import HybridConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraniteConfig(HybridConfig):
    """Describe a Granite 4 H language model without experts; see `HybridConfig`.

    Examples:
      >>> config = GraniteConfig(
      ...     vocab_size=256, d_model=32, num_layers=2, head_width=16,
      ...     layer_kinds=("mamba", "attention"), residual_multiplier=0.25,
      ... )
      >>> config.layer_kinds, config.num_heads
      (('mamba', 'attention'), 4)
    """
