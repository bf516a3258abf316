"""Sizes and choices of a Qwen3-Next language model."""

import dataclasses
from typing import ClassVar

from jmamba.layers.delta_sizes import DeltaSizes
from jmamba.models.hybrid.config import ATTENTION, DELTA, HybridFields, with_experts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen3NextConfig(HybridFields, DeltaSizes):
    """Describe a Qwen3-Next language model.

    Its fields are those of `HybridFields` and of `DeltaSizes`; layers are of kind
    "delta" or "attention", or of these with "_experts" behind.

    Raises:
      ValueError: as `HybridFields` and `DeltaSizes`.

    Examples:
      >>> config = Qwen3NextConfig(
      ...     vocab_size=256, d_model=32, num_layers=2, num_value_heads=4, key_width=8,
      ...     layer_kinds=("delta_experts", "attention_experts"), num_experts=4,
      ...     d_expert=16, share_experts=True, d_shared=16,
      ... )
      >>> config.expert_sizes.per_token, config.d_inner
      (2, 64)
    """

    known_kinds: ClassVar[tuple[str, ...]] = with_experts((DELTA, ATTENTION))

    def __post_init__(self):
        """Check all fields and fill in the derived sizes."""
        super().__post_init__()
        self.derive_delta()
