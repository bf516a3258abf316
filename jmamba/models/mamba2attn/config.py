"""Sizes and choices of an original hybrid of Mamba-2 and attention."""

import dataclasses

from jmamba.layers.fields import Width
from jmamba.models.hybrid.config import HybridConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mamba2AttnConfig(HybridConfig):
    """Describe an original hybrid of Mamba-2 and attention; see `HybridConfig`.

    Attributes:
      attention_window: of the convolution in front of attention.

    Examples:
      >>> config = Mamba2AttnConfig.named("mamba2attn-2.7b")
      >>> [i for i, kind in enumerate(config.layer_kinds) if kind == "attention"]
      [9, 18, 27, 36, 45, 56]
    """

    attention_window: Width = 4

    @classmethod
    def named(cls, name: str) -> "Mamba2AttnConfig":
        """Return the configuration of a released model by its short name.

        Raises:
          ValueError: the name is unknown; the message lists the known ones.
        """
        if name != "mamba2attn-2.7b":
            raise ValueError(
                f"Unknown configuration {name!r}; known is mamba2attn-2.7b."
            )
        attention = (9, 18, 27, 36, 45, 56)
        kinds = ("attention" if i in attention else "mamba" for i in range(64))
        return cls(
            vocab_size=50288,
            unpadded_vocab_size=50277,
            d_model=2560,
            num_layers=64,
            layer_kinds=tuple(kinds),
            num_query_heads=30,
            query_width=128,
            rope_width=64,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
