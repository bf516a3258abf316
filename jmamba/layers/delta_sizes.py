"""The sizes that a gated delta net reads."""

import dataclasses

from jmamba.layers.fields import Depth, DerivedWidth, Positive, Width, check_fields
from jmamba.layers.sizes import derive


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeltaSizes:
    """Describe a gated delta net; configurations of models hold the same fields.

    Attributes:
      d_model: width of the residual stream.
      num_layers: blocks of the model, which the initial scale of a mixer depends on.
      num_value_heads: heads, each with a state and an output of its own.
      num_key_heads: heads of queries and keys, each of which so many value heads share;
        0 for one each.
      key_width: numbers of a query and of a key.
      value_width: numbers of a value; 0 for twice the key's.
      d_conv: window of the causal convolution.
      delta_norm_eps: epsilon of the norm of the output.
      beta_limit: greatest beta: 1, or 2 where states may turn.
      dt_min, dt_max, dt_init_floor: range of the step sizes at initialisation.

    Raises:
      ValueError: a field is of another type, or not in its range, or key heads do not
        divide value heads.

    Examples:
      >>> sizes = DeltaSizes(d_model=64, num_layers=2, num_value_heads=4, key_width=8)
      >>> sizes.d_inner, sizes.d_conv_inner
      (64, 128)

    References:
      Yang, Kautz & Hatamizadeh, "Gated Delta Networks", arXiv 2412.06464, section 3.
    """

    d_model: Width
    num_layers: Depth
    num_value_heads: Width = 8
    num_key_heads: DerivedWidth = 0
    key_width: Width = 64
    value_width: DerivedWidth = 0
    d_conv: Width = 4
    delta_norm_eps: Positive = 1e-5
    beta_limit: Positive = 1.0
    dt_min: Positive = 1e-3
    dt_max: Positive = 1e-1
    dt_init_floor: Positive = 1e-4

    def __post_init__(self):
        """Check all fields and fill in the derived sizes."""
        check_fields(self)
        self.derive_delta()

    def derive_delta(self) -> None:
        """Fill in heads and widths that are 0, and raise unless heads fit.

        Raises:
          ValueError: they do not.
        """
        derive(self, num_key_heads=self.num_value_heads)
        derive(self, value_width=2 * self.key_width)
        if self.num_value_heads % self.num_key_heads:
            raise ValueError(
                f"{type(self).__name__}: num_key_heads={self.num_key_heads} must "
                f"divide the {self.num_value_heads} value heads."
            )

    @property
    def d_key(self) -> int:
        """Numbers of all queries, and of all keys, of a token."""
        return self.num_key_heads * self.key_width

    @property
    def d_inner(self) -> int:
        """Numbers of all values of a token."""
        return self.num_value_heads * self.value_width

    @property
    def d_conv_inner(self) -> int:
        """Channels of the convolution: queries, keys and values."""
        return 2 * self.d_key + self.d_inner

    @property
    def delta_sizes(self) -> "DeltaSizes":
        """These sizes alone, of a configuration that holds more."""
        names = [field.name for field in dataclasses.fields(DeltaSizes)]
        return DeltaSizes(**{name: getattr(self, name) for name in names})
