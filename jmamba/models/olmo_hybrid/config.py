"""Sizes and choices of an OLMo-hybrid language model."""

import dataclasses
from typing import ClassVar

from jmamba.layers.delta_sizes import DeltaSizes
from jmamba.models.hybrid.config import ATTENTION, DELTA, HybridFields


@dataclasses.dataclass(frozen=True, kw_only=True)
class OlmoHybridConfig(HybridFields, DeltaSizes):
    """Describe an OLMo-hybrid language model.

    Its fields are those of `HybridFields` and of `DeltaSizes` (num_value_heads,
    key_width, ...); layers are of kind "delta" or "attention".

    Raises:
      ValueError: as `HybridFields` and `DeltaSizes`.

    Examples:
      >>> config = OlmoHybridConfig(
      ...     vocab_size=256, d_model=32, num_layers=2, num_value_heads=4, key_width=8,
      ...     layer_kinds=("delta", "attention"), beta_limit=2.0,
      ... )
      >>> config.value_width, config.d_inner
      (16, 64)
    """

    known_kinds: ClassVar[tuple[str, ...]] = (DELTA, ATTENTION)

    def __post_init__(self):
        """Check all fields and fill in the derived sizes."""
        super().__post_init__()
        self.derive_delta()
