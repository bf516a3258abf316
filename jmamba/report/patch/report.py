"""What patches of one text into another found."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jmamba.figures.labels import Piece, piece_labels
from jmamba.interventions.patching import PatchingError
from jmamba.report.display import Displayed
from jmamba.report.predictions import Predictions


@dataclasses.dataclass(frozen=True, repr=False)
class PatchReport(Displayed):
    """What of the clean run brings its answer back; see `measure_patches`.

    `s` layers (one row for a place outside of them), `l` tokens.

    Attributes:
      model: name of the model.
      clean: the text whose answer is asked for.
      corrupted: the text that is patched.
      ids: tokens of the clean text.
      corrupted_ids: tokens of the other.
      pieces: the clean tokens as stretches of text.
      labels: one readable label per clean token.
      corrupted_labels: one per token of the other text.
      place: what is patched.
      layers: in which layers; none for a place outside of them.
      question: the answer, and what it is compared with if there is anything, with
        their probabilities after the clean text.
      predictions: the likeliest next tokens, or classes, after the clean text.
      corrupted_predictions: after the corrupted one.
      change: by how much each patch raises the logit of the answer.
      estimate: what attribution patching says of the same.
      base: that logit of the corrupted run.
      goal: that of the clean run.
      error: how far the estimate is off.
      settings: what was asked for.
      environment: versions, device and implementation.
      timings: seconds per stage.
    """

    model: str
    clean: str
    corrupted: str
    ids: Int[np.ndarray, "l"]
    corrupted_ids: Int[np.ndarray, "l"]
    pieces: tuple[Piece, ...]
    labels: tuple[str, ...]
    corrupted_labels: tuple[str, ...]
    place: str
    layers: tuple[int, ...]
    question: Predictions
    predictions: Predictions
    corrupted_predictions: Predictions
    change: Float[np.ndarray, "s l"]
    estimate: Float[np.ndarray, "s l"]
    base: float
    goal: float
    error: PatchingError
    settings: dict[str, Any]
    environment: dict[str, Any]
    timings: dict[str, float]

    def __repr__(self) -> str:
        """Return where most is brought back."""
        row, token = self.strongest(1)[0]
        return (
            f"PatchReport of {self.place}: {self.asked} comes back by "
            f"{100 * self.recovered[row, token]:.0f} % at {self.row_labels[row]}, "
            f"token {token} ({self.labels[token]})"
        )

    @property
    def piece_labels(self) -> list[str]:
        """One readable label per piece of the clean text."""
        return piece_labels(self.pieces, self.labels)

    @property
    def asked(self) -> str:
        """What is asked for, in words."""
        return " rather than ".join(self.question.labels)

    @property
    def row_labels(self) -> list[str]:
        """What the rows are."""
        return [f"layer {layer}" for layer in self.layers] or [self.place]

    @property
    def recovered(self) -> Float[np.ndarray, "s l"]:
        """How much of the way from `base` to `goal` each patch goes."""
        return self.change / (self.goal - self.base)

    @property
    def estimated(self) -> Float[np.ndarray, "s l"]:
        """The same by attribution patching."""
        return self.estimate / (self.goal - self.base)

    @property
    def different(self) -> Int[np.ndarray, "c"]:
        """The tokens that the two texts differ in."""
        return np.flatnonzero(self.ids != self.corrupted_ids)

    def strongest(self, count: int) -> list[tuple[int, int]]:
        """Return rows and tokens of the patches that bring most back, or take most."""
        order = np.argsort(-np.abs(self.change), axis=None, kind="stable")[:count]
        rows, tokens = np.unravel_index(order, self.change.shape)
        return list(zip(rows.tolist(), tokens.tolist(), strict=True))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays to store, by name."""
        return {
            "token_ids": self.ids,
            "corrupted_token_ids": self.corrupted_ids,
            "layers": np.asarray(self.layers, np.int32),
            "answer_ids": self.question.ids,
            "logit_change": self.change,
            "logit_change_estimated": self.estimate,
            "recovered": self.recovered,
            "recovered_estimated": self.estimated,
        }
