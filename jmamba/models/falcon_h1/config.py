"""Sizes and choices of a Falcon-H1 language model."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from jmamba.models.hybrid.config import HybridConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class FalconH1Config(HybridConfig):
    """Describe a Falcon-H1 language model; see `HybridConfig`.

    All its layers are of one kind, "parallel". The numbers below scale what their names
    say.

    Attributes:
      head_multiplier: logits.
      feed_forward_multipliers: the gate's argument, and the output.
      key_multiplier: keys.
      attention_in_multiplier, attention_out_multiplier: input and output of attention.
      ssm_in_multiplier, ssm_out_multiplier: input and output of Mamba-2.
      ssm_multipliers: z, x, B, C and dt in it.

    Examples:
      >>> config = FalconH1Config(
      ...     vocab_size=256, d_model=32, num_layers=2, head_width=8, d_inner=24
      ... )
      >>> config.layer_kinds, config.num_heads
      (('parallel', 'parallel'), 3)
    """

    known_kinds: ClassVar[tuple[str, ...]] = ("parallel",)

    head_multiplier: float = 1.0
    feed_forward_multipliers: Sequence[float] = (1.0, 1.0)
    key_multiplier: float = 1.0
    attention_in_multiplier: float = 1.0
    attention_out_multiplier: float = 1.0
    ssm_in_multiplier: float = 1.0
    ssm_out_multiplier: float = 1.0
    ssm_multipliers: Sequence[float] = (1.0, 1.0, 1.0, 1.0, 1.0)

    def __post_init__(self):
        """Check all fields and fill in the derived sizes."""
        super().__post_init__()
        for name, count in {
            "feed_forward_multipliers": 2,
            "ssm_multipliers": 5,
        }.items():
            found = tuple(getattr(self, name))
            object.__setattr__(self, name, found)  # to have a hash
            if len(found) != count:
                raise ValueError(
                    f"{type(self).__name__}: {name} must be {count} numbers, but is "
                    f"{found}."
                )
