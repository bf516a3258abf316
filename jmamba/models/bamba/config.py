"""Sizes and choices of a Bamba language model."""

import dataclasses

from jmamba.models.hybrid.config import HybridConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class BambaConfig(HybridConfig):
    """Describe a Bamba language model; see `HybridConfig`.

    Examples:
      >>> config = BambaConfig(
      ...     vocab_size=256, d_model=32, num_layers=2, head_width=16, rope_width=2,
      ...     layer_kinds=("mamba", "attention"),
      ... )
      >>> config.query_width, config.rope_width
      (4, 2)
    """
