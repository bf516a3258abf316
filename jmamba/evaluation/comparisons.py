"""How sure a score, or a difference of two, is over trained models and samples."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats


class Comparison(NamedTuple):
    """A score, where it lies with a given confidence, and how sure it is not zero.

    Attributes:
      value: the score of all seeds and samples.
      low, high: its confidence interval.
      p_value: how probable a score so far from zero would be if it were zero.
    """

    value: float
    low: float
    high: float
    p_value: float


def compare_over_seeds(
    statistic: Callable[..., float],
    *samples: Any,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Return a score with its interval over seeds and samples, two levels at once.

        interval = score -+ t[s - 1] sqrt(s / (s - 1)) deviation

    The deviation is that of the scores of data sets whose seeds and samples are both
    drawn again, as many as there are and with replacement, all seeds with the same
    samples. A bootstrap of a few seeds is too narrow by the factor sqrt((s - 1) / s) in
    deviation and by normal instead of Student's quantiles; both are put right.

    Args:
      statistic: function of arrays (s, b, ...) to one number: a mean, a ratio of sums,
        the difference of two methods. It is called with arrays of that form.
      *samples: arrays over seeds and samples, (s, b, ...), which are drawn together:
        models that were trained from s seeds, each measured on the same b samples.
      level: share of the scores that the interval holds.
      resamples: how many data sets are drawn.
      seed: of the draws.

    Raises:
      ValueError: arrays have different numbers of seeds or samples, fewer than two of
        either, or level or resamples are out of range.

    Examples:
      >>> draw = np.random.default_rng(0)
      >>> right = draw.random((5, 200)) < [[0.8], [0.82], [0.79], [0.81], [0.8]]
      >>> found = compare_over_seeds(np.mean, right)
      >>> bool(found.low < 0.8 < found.high)
      True

    References:
      Efron & Tibshirani, "An introduction to the bootstrap", 1993, chapters 8 and 12.
    """
    arrays = [np.asarray(array) for array in samples]
    shapes = [array.shape[:2] for array in arrays]
    if not shapes or len(set(shapes)) > 1 or len(shapes[0]) < 2 or min(shapes[0]) < 2:
        raise ValueError(
            f"Arrays are {shapes} over seeds and samples: give at least one array, all "
            "of two seeds or more by two samples or more; bootstrap_interval takes the "
            "samples of a single model."
        )
    if not 0 < level < 1 or resamples < 2:
        raise ValueError(
            f"level={level}, resamples={resamples}: give a level between 0 and 1 and "
            "at least 2 resamples."
        )
    (seeds, count), draw = shapes[0], np.random.default_rng(seed)
    scores = []
    for _ in range(resamples):
        rows = draw.integers(0, seeds, seeds)[:, None]
        columns = draw.integers(0, count, count)[None]
        scores.append(float(statistic(*(array[rows, columns] for array in arrays))))
    value = float(statistic(*arrays))
    deviation = np.sqrt(seeds / (seeds - 1)) * np.std(scores, ddof=1)
    half = float(stats.t.ppf((1 + level) / 2, seeds - 1) * deviation)
    if deviation == 0:
        return Comparison(value, value, value, float(value == 0))
    p_value = float(2 * stats.t.sf(abs(value) / deviation, seeds - 1))
    return Comparison(value, value - half, value + half, p_value)


def correct_for_many(p_values: Any) -> Float[np.ndarray, "n"]:
    """Return p values that hold for all of several comparisons together, by Holm.

        p'[k] = max_{j <= k} min(1, (n - j) p[j]),   p in ascending order, j from 0

    If all of n differences were zero, the probability that any p' is below 0.05 would
    be at most 0.05.

    Args:
      p_values: one of each comparison.

    Raises:
      ValueError: they are not between 0 and 1.

    Examples:
      >>> correct_for_many([0.01, 0.04, 0.03]).round(3).tolist()
      [0.03, 0.06, 0.06]

    References:
      Holm, "A simple sequentially rejective multiple test procedure", Scandinavian
      Journal of Statistics 6, 1979.
    """
    p = np.asarray(p_values, np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p_values={p_values}: give numbers from 0 to 1.")
    order = np.argsort(p)
    factors = np.arange(len(p), 0, -1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return corrected
