"""What came of a sweep, with its labels and its figure."""

import dataclasses
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, repr=False)
class Sweep:
    """The logits of an edit at every point of a grid.

    Attributes:
      values: by point and sample, (..., b).
      base: without edits, (b,).
      axes: name -> labels of its entries, in the order of the values' axes.
      title: what was done.
      goal: the logit that counts as 1 of what is recovered, (b,); None where nothing is
        patched in.

    Examples:
      >>> values, base = np.array([[1.0], [3.0]]), np.array([1.0])
      >>> made = Sweep(values, base, {"layers": (0, 1)}, "zero output")
      >>> made.change.tolist(), made.best()
      ([[0.0], [2.0]], {'layers': 1})
    """

    values: Float[np.ndarray, "*axes b"]
    base: Float[np.ndarray, "b"]
    axes: dict[str, tuple[Any, ...]]
    title: str
    goal: Float[np.ndarray, "b"] | None = None

    @property
    def change(self) -> Float[np.ndarray, "*axes b"]:
        """By how much each logit changed."""
        return self.values - self.base

    @property
    def recovered(self) -> Float[np.ndarray, "*axes b"]:
        """How much of the way from `base` to `goal` each point goes: 1 for all of it.

        Raises:
          ValueError: there is no goal.
        """
        if self.goal is None:
            raise ValueError(
                "Nothing was patched in, so that there is no goal; look at `change`, "
                "or use sweep_patches."
            )
        return self.change / (self.goal - self.base)

    def best(self) -> dict[str, Any]:
        """Return the labels of the point that changes the mean logit most."""
        sizes = np.abs(self.change.mean(axis=-1))
        place = np.unravel_index(int(sizes.argmax()), sizes.shape)
        named = zip(self.axes.items(), place, strict=True)
        return {name: labels[i] for (name, labels), i in named}

    def draw(self, labels: Sequence[str] | None = None) -> "Figure":
        """Draw the mean over samples: as a map of two axes, or as lines over one.

        Args:
          labels: texts of the positions; None for their numbers.

        Raises:
          ValueError: there are more than two axes.
        """
        from jmamba.interventions.figures import draw_sweep

        return draw_sweep(self, labels)

    def _repr_png_(self) -> bytes:
        """Return the figure, as notebooks ask for."""
        buffer = io.BytesIO()
        self.draw().savefig(buffer, format="png")
        return buffer.getvalue()

    def __repr__(self) -> str:
        """Return what was swept, and where most happens."""
        sizes = " x ".join(f"{len(x)} {name}" for name, x in self.axes.items())
        best = ", ".join(f"{name} {label}" for name, label in self.best().items())
        size = np.abs(self.change.mean(axis=-1)).max()
        return f"Sweep of {self.title}: {sizes}; most, {size:.3g}, at {best}"
