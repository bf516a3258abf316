"""What sorts tokens: what a configuration chooses."""

import dataclasses
from collections.abc import Sequence

from jmamba.layers.fields import Positive

REORDER = ("none", "official", "corrected")
"""Whether layers sort their tokens, and whether they put outputs back in place."""

REORDER_BY = ("importance", "random")
"""What layers sort by: learned scores, or, for a control, nothing at all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SortingChoices:
    """Choose what sorts tokens; configurations of models hold the same fields.

    Attributes:
      reorder: "none"; "official" to run recurrences on tokens sorted by importance,
        the most important last, and leave their outputs in that order; "corrected" to
        put outputs back where their tokens are. See `Sorting`.
      reorder_layers: which layers sort; None for all.
      reorder_by: "importance" for learned scores, or "random" for a permutation that
        is fixed by `reorder_seed` and the number of tokens, as a control.
      reorder_tau: temperature of `soft_sort`.
      reorder_hard: whether it is a permutation, with the soft one's derivative.
      reorder_normalise: whether scores get mean 0 and deviation 1. Without it, and
        with tau = 1, a fresh layer makes all tokens their mean.
      reorder_seed: of the random permutation.

    References:
      Vo et al., arXiv 2410.03292, section 5.2.
    """

    reorder: str = "none"
    reorder_layers: Sequence[int] | None = None
    reorder_by: str = "importance"
    reorder_tau: Positive = 1.0
    reorder_hard: bool = False
    reorder_normalise: bool = False
    reorder_seed: int = 0

    def sorted_layers_of(self, count: int) -> tuple[int, ...]:
        """Return the layers that sort their tokens, of so many, in ascending order.

        Examples:
          >>> SortingChoices(reorder="corrected").sorted_layers_of(3)
          (0, 1, 2)
        """
        if self.reorder == "none":
            return ()
        if self.reorder_layers is None:
            return tuple(range(count))
        return tuple(sorted(self.reorder_layers))

    def class_position(self, num_patches: int | None = None) -> int | None:
        """Return the place of a token that is not sorted; None if there is none.

        Args:
          num_patches: tokens that are sorted.
        """
        raise NotImplementedError


def check_sorting(config: "SortingChoices", num_layers: int) -> None:
    """Raise unless the fields of a configuration that sort tokens make sense.

    Args:
      config: the choices.
      num_layers: blocks of the model.

    Raises:
      ValueError: a choice is unknown, a layer does not exist or is named twice, tau is
        not positive, or something is set that does nothing.
    """
    for name, choices in {"reorder": REORDER, "reorder_by": REORDER_BY}.items():
        if getattr(config, name) not in choices:
            raise ValueError(
                f"{name}={getattr(config, name)!r}: give one of {', '.join(choices)}."
            )
    idle = {"reorder_layers": None, "reorder_by": REORDER_BY[0], "reorder_tau": 1.0}
    idle |= {"reorder_hard": False, "reorder_normalise": False, "reorder_seed": 0}
    if config.reorder == "none":
        wrong = [name for name, value in idle.items() if getattr(config, name) != value]
    elif config.reorder_by == "random":
        names = ("reorder_tau", "reorder_hard", "reorder_normalise")
        wrong = [name for name in names if getattr(config, name) != idle[name]]
    else:
        wrong = ["reorder_seed"] if config.reorder_seed != 0 else []
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)}: does nothing with reorder={config.reorder!r} and "
            f"reorder_by={config.reorder_by!r}; leave it out, or choose those."
        )
    count, layers = num_layers, config.reorder_layers
    if layers is not None and (
        not layers
        or len(set(layers)) < len(layers)
        or not all(0 <= i < count for i in layers)
    ):
        raise ValueError(
            f"reorder_layers={layers}: give different ones of 0 to {count - 1}, or "
            "None for all."
        )
    if not 0 < config.reorder_tau < float("inf"):
        raise ValueError(f"reorder_tau={config.reorder_tau}: give a positive one.")
    if not 0 <= config.reorder_seed < 2**32:
        raise ValueError(f"reorder_seed={config.reorder_seed}: give 0 to 2**32 - 1.")
