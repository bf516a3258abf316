"""The sizes that softmax attention reads."""

import dataclasses
from typing import Annotated

from jmamba.layers.fields import (
    Depth,
    DerivedWidth,
    Positive,
    Width,
    Within,
    check_fields,
)
from jmamba.layers.sizes import derive


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionSizes:
    """Describe softmax attention; configurations of models hold the same fields.

    Attributes:
      d_model: width of the residual stream.
      num_layers: blocks of the model, which the initial scale of a mixer depends on.
      num_query_heads: heads.
      num_kv_heads: groups of heads that share keys and values; 0 for a group each.
      query_width: numbers of a query, a key and a value; 0 for d_model / heads.
      rope_width: how many of them, the first ones, are rotated by a token's place.
      rope_theta: base of the rotations' wavelengths.
      attention_scale: what scores are multiplied with; None for query_width^-1/2.
      use_attention_bias: whether the projections have biases.

    Raises:
      ValueError: a field is of another type, or not in its range, or heads do not
        divide the width, or groups heads.

    Examples:
      >>> sizes = AttentionSizes(d_model=64, num_layers=2, num_query_heads=4)
      >>> sizes.num_kv_heads, sizes.query_width
      (4, 16)

    References:
      Ainslie et al., "GQA", arXiv 2305.13245; Su et al., "RoFormer", arXiv 2104.09864.
    """

    d_model: Width
    num_layers: Depth
    num_query_heads: Width = 8
    num_kv_heads: DerivedWidth = 0
    query_width: DerivedWidth = 0
    rope_width: DerivedWidth = 0
    rope_theta: Annotated[float, Within(0, 1e12, is_open=True)] = 1e4
    attention_scale: Positive | None = None
    use_attention_bias: bool = False

    def __post_init__(self):
        """Check all fields and fill in the derived sizes."""
        check_fields(self)
        self.derive_attention()

    def derive_attention(self) -> None:
        """Fill in widths and groups where they are 0, and raise unless heads fit.

        Raises:
          ValueError: they do not.
        """
        kind, heads = type(self).__name__, self.num_query_heads
        if not self.query_width and self.d_model % heads:
            raise ValueError(
                f"{kind}: num_query_heads={heads} must divide the width "
                f"{self.d_model} (d_model), or query_width must say how wide they are."
            )
        derive(self, num_kv_heads=heads, query_width=self.d_model // heads)
        if heads % self.num_kv_heads:
            raise ValueError(
                f"{kind}: num_kv_heads={self.num_kv_heads} must divide the {heads} "
                "heads (num_query_heads)."
            )
        if self.rope_width % 2 or self.rope_width > self.query_width:
            raise ValueError(
                f"{kind}: rope_width must be an even number up to query_width="
                f"{self.query_width}, but is {self.rope_width}."
            )

    @property
    def attention_sizes(self) -> "AttentionSizes":
        """These sizes alone, of a configuration that holds more."""
        names = [field.name for field in dataclasses.fields(AttentionSizes)]
        return AttentionSizes(**{name: getattr(self, name) for name in names})
