"""Confidence intervals of scores of a data set."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A score and where it lies with a given confidence."""

    value: float
    low: float
    high: float


def bootstrap_interval(
    statistic: Callable[..., float],
    *samples: Any,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return a score of a data set with its bootstrap interval over samples.

    Samples are drawn again, as many as there are and with replacement; the interval
    holds the middle part, `level`, of the scores of such data sets (the percentile
    interval).

    Args:
      statistic: function of arrays over samples to one number: a mean, a ratio of sums,
        the difference of two methods.
      *samples: arrays (samples, ...), which are drawn together.
      level: share of the scores that the interval holds.
      resamples: how many data sets are drawn.
      seed: of the draws.

    Raises:
      ValueError: arrays have different numbers of samples or none, or level or
        resamples are out of range.

    Examples:
      >>> area = np.array([1.0, 2.0, 3.0, 4.0])
      >>> bootstrap_interval(np.mean, area)
      Interval(value=2.5, low=1.5, high=3.5)
      >>> other = area - 1  # paired: better by 1 on each sample
      >>> bootstrap_interval(lambda a, b: np.mean(a - b), area, other).low
      1.0

    References:
      Efron & Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
    """
    arrays = [np.asarray(array) for array in samples]
    counts = [array.shape[0] if array.ndim else 0 for array in arrays]
    if not counts or min(counts) != max(counts) or counts[0] == 0:
        raise ValueError(
            f"Arrays hold {counts} samples: give at least one array, all of one length."
        )
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(
            f"level={level}, resamples={resamples}: give a level between 0 and 1 and "
            "at least 1 resample."
        )
    draw = np.random.default_rng(seed)
    scores = []
    for _ in range(resamples):
        chosen = draw.integers(0, counts[0], counts[0])
        scores.append(float(statistic(*(array[chosen] for array in arrays))))
    tail = (1 - level) / 2
    low, high = np.quantile(scores, [tail, 1 - tail])
    return Interval(float(statistic(*arrays)), float(low), float(high))
