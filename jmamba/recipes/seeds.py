"""Means over seeds, how sure a difference is, and which would have been seen."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.stats import nct, t

from jmamba.evaluation import Comparison, correct_for_many
from jmamba.recipes.verdicts import decide
from jmamba.recipes.workbench import Workbench


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


def pair_seeds(differences: Float[np.ndarray, "s"]) -> Comparison:
    """Return a mean difference with its 95 % interval over seeds, by Student's t.

        mean -+ t[s - 1] sqrt(sum (x - mean)^2 / (s - 1) / s)

    Args:
      differences: one for each seed.

    Raises:
      ValueError: there is only one seed.

    Examples:
      >>> found = pair_seeds(np.array([0.1, 0.2, 0.3]))
      >>> [round(float(x), 3) for x in found]
      [0.2, -0.048, 0.448, 0.074]
    """
    error = _standard_error(differences)
    mean, free = float(differences.mean()), len(differences) - 1
    half = float(t.ppf(0.975, free)) * error
    if error == 0:
        return Comparison(mean, mean, mean, float(mean == 0))
    return Comparison(
        mean, mean - half, mean + half, float(2 * t.sf(abs(mean) / error, free))
    )


def detectable_difference(
    differences: Float[np.ndarray, "s"], *, comparisons: int = 1, power: float = 0.8
) -> float:
    """Return the least true difference that a run like this finds most of the time.

        P(T > t[1 - 0.05 / (2 n); s - 1]) = power,  T ~ noncentral t(s - 1, d / error)

    Args:
      differences: one for each seed; their spread is taken for the true one.
      comparisons: n, how many are corrected for: as Holm's first, the strictest step.
      power: how often it is to be found.

    Raises:
      ValueError: there is only one seed.

    Examples:
      >>> round(detectable_difference(np.array([-1.0, 0.0, 1.0]) / 3**0.5), 2)
      1.88

    References:
      Cohen, "Statistical power analysis for the behavioral sciences", 1988, chapter 2.
    """
    error, free = _standard_error(differences), len(differences) - 1
    limit = float(t.ppf(1 - 0.025 / comparisons, free))

    def missing(shift):
        return float(nct.sf(limit, free, shift)) - power

    shift: Any = brentq(missing, 0, 4 * limit)
    return float(shift) * error


def _standard_error(differences: Float[np.ndarray, "s"]) -> float:
    count = len(differences)
    if count < 2:
        raise ValueError(f"{count} seed: give 2 or more, since one has no spread.")
    return float(differences.std(ddof=1) / np.sqrt(count))


def write_pairs(
    pairs: Mapping[tuple[str, str], Float[np.ndarray, "s"]],
    what: str,
    bench: Workbench,
    *,
    scale: float = 1.0,
) -> None:
    """Add a table of differences that are paired by seed, corrected together.

    Args:
      pairs: names of the first and the second -> the second minus the first.
      what: the second has more of, with its unit.
      bench: where the table goes.
      scale: 100 for percent.
    """
    found = [pair_seeds(differences) for differences in pairs.values()]
    corrected = correct_for_many([one.p_value for one in found])
    rows: list[list[Any]] = []
    for (names, differences), one, p, so in zip(
        pairs.items(), found, corrected, decide(found), strict=True
    ):
        value, low, high = (scale * x for x in one[:3])
        seen = scale * detectable_difference(differences, comparisons=len(pairs))
        said = f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
        rows.append([*names, said, float(p), float(seen), so])
    columns = ["first", "second", f"second minus first, {what}", "p",
               "would have been seen from", "second has more"]  # fmt: skip
    bench.write_table("Paired differences", columns, rows)
    bench.write_text(
        "Differences are paired by seed, with a 95 % interval of Student's t; p and "
        f"verdict are Holm's over all {len(rows)}. In four of five runs like this a "
        "true difference as large as the fifth column says would have been called."
    )
