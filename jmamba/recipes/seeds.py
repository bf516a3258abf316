"""Means over seeds, and how sure a difference is."""

import numpy as np
from jaxtyping import Float

T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365,
        8: 2.306, 9: 2.262}  # fmt: skip
"""Degrees of freedom -> 0.975 quantile of Student's t."""


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
      ValueError: there is only one seed, or more than ten.

    Examples:
      >>> paired_interval(np.array([0.1, 0.2, 0.3]))
      ('+0.200 +- 0.248', 'not decided')
      >>> paired_interval(np.array([0.19, 0.2, 0.21]))
      ('+0.200 +- 0.025', 'more')
    """
    count = len(differences)
    if count - 1 not in T_95:
        raise ValueError(f"{count} seeds: give 2 to {max(T_95) + 1} of them.")
    mean, deviation = differences.mean(), differences.std(ddof=1)
    half = T_95[count - 1] * deviation / np.sqrt(count)
    text = f"{scale * mean:+.3f} +- {scale * half:.3f}"
    if abs(mean) <= half:
        return text, "not decided"
    return text, "more" if mean > 0 else "less"
