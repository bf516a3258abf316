"""Three readings of relevance: with its sign, where it is positive, its magnitude."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

READINGS = {
    "signed": np.asarray,
    "positive": lambda relevance: np.maximum(relevance, 0),
    "magnitude": np.abs,
}
"""Name -> function of relevance to the scores that words are ranked by."""


def choose_reading(scores: Mapping[str, Float[np.ndarray, "..."]]) -> str:
    """Return the reading with the highest mean score; of equal ones the first.

    Args:
      scores: reading -> scores on the validation sentences.

    Examples:
      >>> choose_reading({"signed": np.ones(3), "magnitude": np.arange(4.0)})
      'magnitude'
    """
    return max(scores, key=lambda reading: float(np.mean(scores[reading])))
