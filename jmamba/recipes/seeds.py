"""Means over seeds, and how sure a difference is."""

import numpy as np
from jaxtyping import Float
from scipy.stats import t


def say_mean(
    found: Float[np.ndarray, "s"], *, scale: float = 1.0, digits: int = 3
) -> str:
    """Return a mean with the values that it is of.

    Examples:
      >>> say_mean(np.array([1.0, 2.0]))
      '1.500 [1.000, 2.000]'
    """
    mean, *each = (f"{scale * v:.{digits}f}" for v in (found.mean(), *found))
    return f"{mean} [{', '.join(each)}]"


def paired_interval(
    differences: Float[np.ndarray, "s"], *, scale: float = 1.0
) -> tuple[str, str]:
    """Return a mean difference with its 95 % interval over seeds, and what it says.

        mean +- t sqrt(sum (x - mean)^2 / (s - 1) / s)

    Args:
      differences: one for each seed.
      scale: 100 for percent.

    Raises:
      ValueError: there is only one seed.

    Examples:
      >>> paired_interval(np.array([0.1, 0.2, 0.3]))
      ('+0.200 +- 0.248', 'not decided')
      >>> paired_interval(np.array([0.19, 0.2, 0.21]))
      ('+0.200 +- 0.025', 'more')
    """
    count = len(differences)
    if count < 2:
        raise ValueError(f"{count} seed: give 2 or more, since one has no spread.")
    mean, deviation = differences.mean(), differences.std(ddof=1)
    half = float(t.ppf(0.975, count - 1)) * deviation / np.sqrt(count)
    text = f"{scale * mean:+.3f} +- {scale * half:.3f}"
    if abs(mean) <= half:
        return text, "not decided"
    return text, "more" if mean > 0 else "less"
