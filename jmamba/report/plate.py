"""A captioned picture of a report."""

from collections.abc import Callable
from typing import Any, NamedTuple

from matplotlib.figure import Figure

ALPHA = "α[i,j] = Σₙ C[i,n] · exp(A[n] Σ δ[k], j<k≤i) · δ[j] · B[j,n]"
"""What a page says of hidden attention."""


class Plate(NamedTuple):
    """One captioned picture of a report.

    Attributes:
      name: file name without its ending.
      title: heading.
      caption: what is seen, in plain words.
      formula: what is computed.
      arrays: names of the arrays behind it in arrays.npz.
      draw: makes the picture.
      needs: attribute of the report without which there is no such picture.
      says: tells what a report's picture shows, in words and numbers; None for what the
        caption says.
    """

    name: str
    title: str
    caption: str
    formula: str
    arrays: tuple[str, ...]
    draw: Callable[[Any], Figure]
    needs: str = "left_out"
    says: Callable[[Any], str] | None = None

    def describe(self, report: Any) -> str:
        """Return what stands in for the picture where it cannot be seen."""
        shown = self.caption if self.says is None else self.says(report)
        return f"{self.title}: {shown}"
