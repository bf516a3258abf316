"""Whether two rankings agree."""

from typing import Any

import numpy as np
from scipy.stats import spearmanr


def rank_correlation(x: Any, y: Any) -> float:
    """Return Spearman's rank correlation, nan where one of both is constant.

    Args:
      x: values, of any shape.
      y: as many.

    Examples:
      >>> rank_correlation([1.0, 5.0, 3.0], [0.1, 0.3, 0.2])
      1.0
    """
    x, y = np.ravel(x), np.ravel(y)
    if x.size < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(spearmanr(x, y)[0])  # pyright: ignore[reportArgumentType]
