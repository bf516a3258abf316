"""The likeliest outcomes that a report names."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The likeliest next tokens of a text, or classes of an image, best first.

    Attributes:
      ids: token ids, or numbers of classes.
      probabilities: their probabilities.
      labels: their readable forms.
    """

    ids: Int[np.ndarray, "t"]
    probabilities: Float[np.ndarray, "t"]
    labels: tuple[str, ...]


def best_predictions(
    logits: Float[np.ndarray, "v"],
    top: int,
    label: Callable[[list[int]], tuple[str, ...]],
) -> Predictions:
    """Return the likeliest tokens or classes.

    Args:
      logits: of all of them.
      top: how many to return.
      label: makes their readable forms.

    Examples:
      >>> found = best_predictions(np.log([1.0, 3.0]), 1, lambda ids: ("yes",))
      >>> found.ids.tolist(), found.probabilities.tolist()
      ([1], [0.75])
    """
    ids = np.argsort(-logits.astype(np.float64), kind="stable")[:top]
    return name_predictions(logits, ids.tolist(), label)


def name_predictions(
    logits: Float[np.ndarray, "v"],
    ids: list[int],
    label: Callable[[list[int]], tuple[str, ...]],
) -> Predictions:
    """Return chosen tokens or classes, with their probabilities.

    Args:
      logits: of all of them.
      ids: which ones.
      label: makes their readable forms.
    """
    logits = logits.astype(np.float64)
    weights = np.exp(logits - logits.max())
    probabilities = (weights / weights.sum())[ids].astype(np.float32)
    return Predictions(np.asarray(ids, np.int32), probabilities, label(ids))
