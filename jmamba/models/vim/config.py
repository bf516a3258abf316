"""Sizes and choices of a Vision Mamba."""

import dataclasses
import math
from typing import Annotated, Any

from jmamba.layers.fields import Depth, Positive, Rows, Side, Within, check_fields, fits
from jmamba.layers.sizes import MixerSizes, derive
from jmamba.models.classes import Classes
from jmamba.refinements.signs import GateSigns, check_definite
from jmamba.refinements.sorting_choices import SortingChoices, check_sorting

CLASS_TOKENS = ("first", "middle", "last", "none")
"""Names of places of the class token; a number is its place among the patches."""

DIVIDE_FLAGS = ("divide_out", "if_divide_out", "if_devide_out")
"""The flag's name here, in Vim's own code, and in its forks and `vim_base`."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's colours, scaled to [0, 1]: red, green, blue."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VimConfig(Classes, SortingChoices, GateSigns, MixerSizes):
    """Describe a Vision Mamba (Vim) with bidirectional mixers of version 2.

    Its fields are those below, of `Classes` (num_classes, class_names), of `MixerSizes`
    (d_model, d_state, d_conv, ...) and of the refinements `GateSigns` and
    `SortingChoices`.

    Attributes:
      num_layers: number of blocks.
      image_size: side of the images that the position embedding was made for; other
        sizes interpolate it.
      patch_size: side of a patch.
      stride: pixels between patches; 0 for patch_size.
      image_channels: colours.
      class_token: where the class token stands among the patches: "first", "middle"
        (after half of them, rounded down), "last", the number of patches before it, or
        "none" for a model that reads the mean over patches.
      divide_out: whether the sum of both directions is halved.
      norm_eps: epsilon of the RMS norms.
      residual_in_fp32: whether the residual stream is float32 under lower precision.

    Raises:
      ValueError: a field is of another type or not in its range, the class token has
        no such place, there are not as many names as classes, or a choice is unknown or
        does nothing.

    Examples:
      >>> config = VimConfig.named("vim-tiny")
      >>> config.num_patches, config.class_position()
      (196, 98)

    References:
      Zhu et al., "Vision Mamba", arXiv 2401.09417, section 3 and table 1.
      Vo et al., arXiv 2410.03292, section 5, for definite gates and reordering.
    """

    num_layers: Depth = 24
    mixer_rms_eps: None = dataclasses.field(default=None, init=False)
    num_classes: Rows = 1000
    image_size: Side = 224
    patch_size: Side = 16
    stride: Annotated[int, Within(0, 2**14)] = 0
    image_channels: Annotated[int, Within(1, 2**10)] = 3
    class_token: str | int = "middle"
    divide_out: bool = True
    norm_eps: Positive = 1e-5
    residual_in_fp32: bool = True

    def __post_init__(self):
        """Check all fields and fill in the derived sizes."""
        check_fields(self)
        self.derive_sizes()
        derive(self, stride=self.patch_size)
        if self.image_size < self.patch_size:
            raise ValueError(
                f"VimConfig: an image of side {self.image_size} holds no patch of side "
                f"{self.patch_size}; give a larger image_size or a smaller patch_size."
            )
        self.class_position()
        self.check_classes()
        check_definite(self, self.d_state, self.d_inner)
        if self.reorder_layers is not None:  # a list has no hash
            object.__setattr__(self, "reorder_layers", tuple(self.reorder_layers))
        check_sorting(self, self.num_layers)

    @property
    def sorted_layers(self) -> tuple[int, ...]:
        """The layers that sort their tokens, in ascending order.

        Examples:
          >>> VimConfig(d_model=8, num_layers=3, reorder="corrected").sorted_layers
          (0, 1, 2)
        """
        return self.sorted_layers_of(self.num_layers)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of an image of the native size."""
        return self.grid_of(self.image_size, self.image_size)

    @property
    def num_patches(self) -> int:
        """Patches of an image of the native size."""
        return math.prod(self.grid)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of patches of an image.

        Examples:
          >>> VimConfig(d_model=8, stride=8).grid_of(224, 256)
          (27, 31)
        """
        rows, columns = (
            (side - self.patch_size) // self.stride + 1 for side in (height, width)
        )
        return rows, columns

    def class_position(self, num_patches: int | None = None) -> int | None:
        """Return the place of the class token in the sequence, None if there is none.

        Args:
          num_patches: patches of the image; None for one of the native size.

        Raises:
          ValueError: there are fewer patches than should stand before the token.

        Examples:
          >>> [VimConfig(d_model=8, class_token=c).class_position(9) for c in
          ...  ("first", "middle", "last", 2, "none")]
          [0, 4, 9, 2, None]
        """
        count = self.num_patches if num_patches is None else num_patches
        places = {"first": 0, "middle": count // 2, "last": count, "none": None}
        place = places.get(self.class_token, self.class_token)  # type: ignore[arg-type]
        if isinstance(place, str) or not 0 <= (place or 0) <= count:
            raise ValueError(
                f"class_token={self.class_token!r} is no place among {count} patches: "
                f"give one of {', '.join(CLASS_TOKENS)}, or a number from 0 to {count}."
            )
        return place

    @classmethod
    def named(cls, name: str, **changes: Any) -> "VimConfig":
        """Return the configuration of a released model by its short name.

        Args:
          name: "vim-tiny", "vim-small" or "vim-base".
          **changes: fields that differ, such as `stride=8` of the fine-tuned models.

        Raises:
          ValueError: the name is unknown; the message lists the known ones.

        Examples:
          >>> VimConfig.named("vim-small", stride=8).num_patches
          729
        """
        if name not in _NAMED:
            raise ValueError(
                f"Unknown configuration {name!r}; known are {', '.join(_NAMED)}."
            )
        return cls.from_dict({"d_model": _NAMED[name]} | changes)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "VimConfig":
        """Return the configuration with the given fields.

        The flag `divide_out` may have either of its spellings in Vim's own code.

        Raises:
          ValueError: a field is unknown, or spellings of the flag disagree.

        Examples:
          >>> VimConfig.from_dict({"d_model": 8, "if_devide_out": False}).divide_out
          False
        """
        flags = {name: fields[name] for name in DIVIDE_FLAGS if name in fields}
        rest = {name: value for name, value in fields.items() if name not in flags}
        wrong = {name: value for name, value in flags.items() if not fits(value, bool)}
        if wrong:
            raise ValueError(f"A flag must be True or False, but got {wrong}.")
        if len(set(flags.values())) > 1:
            raise ValueError(f"Spellings of one flag disagree: {flags}; keep one.")
        for value in flags.values():
            rest["divide_out"] = value
        known = {field.name for field in dataclasses.fields(cls) if field.init}
        unknown = sorted(set(rest) - known)
        if unknown:
            raise ValueError(
                f"VimConfig has no fields {', '.join(unknown)}; it has "
                f"{', '.join(sorted(known))}."
            )
        return cls(**rest)


_NAMED = {"vim-tiny": 192, "vim-small": 384, "vim-base": 768}
