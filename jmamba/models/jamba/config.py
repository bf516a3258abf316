"""Sizes and choices of a Jamba language model."""

import dataclasses
from typing import ClassVar

from jmamba.layers.sizes import MixerSizes
from jmamba.models.hybrid.config import (
    ATTENTION,
    MAMBA,
    HybridFields,
    with_experts,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JambaConfig(HybridFields, MixerSizes):
    """Describe a Jamba language model.

    Its fields are those of `HybridFields` and of `MixerSizes` (d_state, dt_rank, ...);
    layers are of kind "mamba" or "attention", or of these with "_experts" behind.

    Raises:
      ValueError: as `HybridFields` and `MixerSizes`.

    Examples:
      >>> config = JambaConfig(
      ...     vocab_size=256, d_model=32, num_layers=2, d_feed_forward=48,
      ...     layer_kinds=("mamba", "attention"),
      ... )
      >>> config.d_inner, config.dt_rank, config.query_width
      (64, 2, 4)
    """

    known_kinds: ClassVar[tuple[str, ...]] = with_experts((MAMBA, ATTENTION))

    def __post_init__(self):
        """Check all fields and fill in the derived sizes."""
        super().__post_init__()
        self.derive_sizes()
