"""The sizes that a selective mixer reads."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from jmamba.layers.fields import Depth, DerivedWidth, Positive, Width, check_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixerSizes:
    """Describe a selective mixer; configurations of models hold the same fields.

    Attributes:
      d_model: width of the residual stream.
      num_layers: blocks of the model, which the initial scale of a mixer depends on.
      d_state: states per channel.
      d_conv: window of the causal convolution.
      d_inner: channels of the mixer; 0 for 2 d_model.
      dt_rank: rank of the step-size projection; 0 for ceil(d_model / 16).
      use_bias: whether the input and output projections have biases.
      use_conv_bias: whether the convolution has a bias.
      mixer_rms_eps: epsilon of Falcon-Mamba's weightless RMS norms on dt, B and C;
        None for Mamba-1, which has none.
      dt_min, dt_max, dt_init_floor: range of the step sizes at initialisation.

    Raises:
      ValueError: a field is of another type, or not in its range.

    Examples:
      >>> sizes = MixerSizes(d_model=64, num_layers=2)
      >>> sizes.d_inner, sizes.dt_rank
      (128, 4)

    References:
      Gu & Dao, "Mamba", arXiv 2312.00752, sections 3.4 and 3.6.
      Zuo et al., "Falcon Mamba", arXiv 2410.05355, section 3.
    """

    d_model: Width
    num_layers: Depth
    d_state: Width = 16
    d_conv: Width = 4
    d_inner: DerivedWidth = 0
    dt_rank: DerivedWidth = 0
    use_bias: bool = False
    use_conv_bias: bool = True
    mixer_rms_eps: Positive | None = None
    dt_min: Positive = 1e-3
    dt_max: Positive = 1e-1
    dt_init_floor: Positive = 1e-4

    def __post_init__(self):
        """Check all fields and fill in the derived sizes."""
        check_fields(self)
        self.derive_sizes()

    def derive_sizes(self) -> None:
        """Fill in the channels and the rank where they are 0."""
        derive(self, d_inner=2 * self.d_model, dt_rank=math.ceil(self.d_model / 16))

    @property
    def mixer_sizes(self) -> "MixerSizes":
        """These sizes alone, of a configuration that holds more."""
        names = [field.name for field in dataclasses.fields(MixerSizes)]
        return MixerSizes(**{name: getattr(self, name) for name in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadSizes:
    """Describe a Mamba-2 mixer; configurations of models hold the same fields.

    Attributes:
      d_model: width of the residual stream.
      num_layers: blocks of the model, which the initial scale of a mixer depends on.
      d_state: states of each channel.
      d_conv: window of the causal convolution.
      d_inner: channels of the mixer; 0 for 2 d_model.
      head_width: channels of a head.
      num_groups: groups of heads that share B and C, and of channels that share an RMS
        in the norm of the output.
      use_bias: whether the input and output projections have biases.
      use_conv_bias: whether the convolution has a bias.
      norm_eps: epsilon of the norm of the output.
      is_normed: whether the output is normalised.
      norm_before_gate: whether it is before it meets the gate, instead of after.
      skip_per_channel: whether each channel has a skip weight, instead of each head.
      dt_limit: least and greatest step size.
      dt_min, dt_max, dt_init_floor: range of the step sizes at initialisation.

    Raises:
      ValueError: a field is of another type, or not in its range, or heads do not
        divide channels, or groups heads.

    Examples:
      >>> sizes = HeadSizes(d_model=64, num_layers=2, head_width=16)
      >>> sizes.d_inner, sizes.num_heads
      (128, 8)

    References:
      Dao & Gu, "Transformers are SSMs", arXiv 2405.21060, section 7.
    """

    d_model: Width
    num_layers: Depth
    d_state: Width = 128
    d_conv: Width = 4
    d_inner: DerivedWidth = 0
    head_width: Width = 64
    num_groups: Width = 1
    use_bias: bool = False
    use_conv_bias: bool = True
    norm_eps: Positive = 1e-5
    is_normed: bool = True
    norm_before_gate: bool = False
    skip_per_channel: bool = False
    dt_limit: Sequence[float] = (0.0, math.inf)
    dt_min: Positive = 1e-3
    dt_max: Positive = 1e-1
    dt_init_floor: Positive = 1e-4

    def __post_init__(self):
        """Check all fields and fill in the derived sizes."""
        check_fields(self)
        self.derive_sizes()

    def derive_sizes(self) -> None:
        """Fill in the channels where they are 0, and raise unless heads fit.

        Raises:
          ValueError: they do not.
        """
        derive(self, d_inner=2 * self.d_model)
        object.__setattr__(self, "dt_limit", tuple(self.dt_limit))  # to have a hash
        kind = type(self).__name__
        if self.d_inner % self.head_width:
            raise ValueError(
                f"{kind}: head_width={self.head_width} must divide the "
                f"{self.d_inner} channels (d_inner)."
            )
        if self.num_heads % self.num_groups:
            raise ValueError(
                f"{kind}: num_groups={self.num_groups} must divide the "
                f"{self.num_heads} heads (d_inner / head_width)."
            )
        if len(self.dt_limit) != 2 or not 0 <= self.dt_limit[0] <= self.dt_limit[1]:
            raise ValueError(
                f"{kind}: dt_limit must be the least and the greatest step size, but "
                f"is {self.dt_limit}."
            )

    @property
    def num_heads(self) -> int:
        """Number of heads."""
        return self.d_inner // self.head_width

    @property
    def d_conv_inner(self) -> int:
        """Channels of the convolution: the mixer's, and B and C of all groups."""
        return self.d_inner + 2 * self.num_groups * self.d_state

    @property
    def head_sizes(self) -> "HeadSizes":
        """These sizes alone, of a configuration that holds more."""
        names = [field.name for field in dataclasses.fields(HeadSizes)]
        return HeadSizes(**{name: getattr(self, name) for name in names})


def derive(config: Any, **values: int) -> None:
    """Set fields of a configuration that are 0."""
    for name, value in values.items():
        if getattr(config, name) == 0:
            object.__setattr__(config, name, value)
