"""What an explanation of one image holds."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from jmamba.attention.relevance.heat_maps import patch_weights
from jmamba.evaluation import rank_correlation
from jmamba.figures.labels import visible
from jmamba.report.display import Displayed
from jmamba.report.predictions import Predictions


class Region(NamedTuple):
    """The part of a picture that the model saw, in the picture's own pixels."""

    top: int
    left: int
    height: int
    width: int


class Reading(NamedTuple):
    """What the model read it as: an image of so many pixels, cut into patches."""

    height: int
    width: int
    patch: int
    stride: int


@dataclasses.dataclass(frozen=True, repr=False)
class ImageExplanation(Displayed):
    """What a model saw in one image; see `jmamba.report.image.measure`.

    Layers are counted from 0. `rows x columns` are the patches.

    Attributes:
      model: name of the model.
      name: of the picture.
      picture: the whole picture.
      seen: the part of it that the model saw.
      read_as: the size to which that was resized, and the patches it was cut into.
      predictions: the likeliest classes.
      target: number of the class that is explained.
      label: its name.
      probability: what the model gives it.
      method: name of the explanation in `jmamba.attention.METHODS`.
      relevance: of every patch, by method: the one asked for and the others.
      class_index: place of the class token among the tokens, None without one.
      layers: the layers chosen for large pictures.
      class_attention: mean |alpha| over channels from the class token to every patch,
        or from all tokens alike if there is none, in every layer.
      attention: the same between all tokens, or None where it was not asked for.
      reading: probability of the likeliest classes, read off the class token before
        the first layer and after each.
      norms: Euclidean norm of each token; row 0 is the embedding, row k + 1 is after
        layer k.
      settings: what was asked for.
      environment: versions, device and implementation.
      timings: seconds per stage.
    """

    model: str
    name: str
    picture: UInt8[np.ndarray, "height width 3"]
    seen: Region
    read_as: Reading
    predictions: Predictions
    target: int
    label: str
    probability: float
    method: str
    relevance: dict[str, Float[np.ndarray, "rows columns"]]
    class_index: int | None
    layers: tuple[int, ...]
    class_attention: Float[np.ndarray, "s rows columns"]
    attention: Float[np.ndarray, "s l l"] | None
    reading: Float[np.ndarray, "s+1 t"]
    norms: Float[np.ndarray, "s+1 l"]
    settings: dict[str, Any]
    environment: dict[str, Any]
    timings: dict[str, float]

    def __repr__(self) -> str:
        """Return the prediction and what was asked, without the arrays."""
        best = self.predictions
        return (
            f"ImageExplanation of {self.shown_name} by {self.model}: {best.labels[0]} "
            f"({100 * best.probabilities[0]:.1f} %); {self.label} explained by "
            f"{self.method}"
        )

    @property
    def shown_name(self) -> str:
        """The picture's name, with nothing invisible but its blanks."""
        return visible(self.name, keep=" ")

    @property
    def how_read(self) -> str:
        """What of the picture the model read, and in which size."""
        top, left, height, width = self.seen
        read = f"as {self.read_as.width} x {self.read_as.height} pixels"
        if (height, width) == self.picture.shape[:2]:
            return f"whole, {read}"
        return f"its middle, {width} x {height} pixels from ({left}, {top}) on, {read}"

    @property
    def part(self) -> UInt8[np.ndarray, "height width 3"]:
        """The part of the picture that the model saw."""
        top, left, height, width = self.seen
        return self.picture[top : top + height, left : left + width]

    @property
    def others(self) -> dict[str, Float[np.ndarray, "rows columns"]] | None:
        """Relevance by every method, or None if only one was asked for."""
        return self.relevance if len(self.relevance) > 1 else None

    def heat(self, method: str | None = None) -> Float[np.ndarray, "height width"]:
        """Return relevance as a map of the whole picture, 0 where nothing was seen.

        Values stand at the centres of patches and are interpolated bilinearly between.

        Args:
          method: one of `relevance`; None for the one asked for.
        """
        top, left, height, width = self.seen
        found = np.zeros(self.picture.shape[:2], np.float32)
        part = self.spread(self.relevance[method or self.method], height, width)
        found[top : top + height, left : left + width] = part
        return found

    def spread(
        self, grid: Float[np.ndarray, "rows columns"], height: int, width: int
    ) -> Float[np.ndarray, "height width"]:
        """Return values of patches as a picture of any size of what the model saw."""
        _, _, patch, stride = self.read_as
        down, across = (
            patch_weights(count, patch=patch, stride=stride, side=side, size=size)
            for count, side, size in zip(
                grid.shape, self.read_as[:2], (height, width), strict=True
            )
        )
        return (down @ grid.astype(np.float64) @ across.T).astype(np.float32)

    def agreement(self) -> dict[str, float]:
        """Return the rank correlation of each other method's patches with the chosen's.

        Spearman's; NaN for a map without differences.
        """
        chosen = self.relevance[self.method]
        return {
            name: rank_correlation(chosen, grid)
            for name, grid in self.relevance.items()
            if name != self.method
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays to store, by name."""
        arrays = {
            self.method: self.heat(),
            "seen": np.asarray(self.seen, np.int32),
            "chosen_layers": np.asarray(self.layers, np.int32),
            "prediction_ids": self.predictions.ids,
            "prediction_probabilities": self.predictions.probabilities,
            "class_attention": self.class_attention,
            "layer_probabilities": self.reading,
            "residual_norms": self.norms,
        }
        grids = {f"patches_{name}": grid for name, grid in self.relevance.items()}
        if self.attention is not None:
            arrays["attention"] = self.attention
        return arrays | grids
