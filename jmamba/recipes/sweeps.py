"""A learning rate for every variant, chosen on validation data."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jmamba.recipes.workbench import Workbench

Sweep = Mapping[str, Mapping[float, float]]
"""Variant -> learning rate -> score on validation data, the higher the better."""


def sweep_rates(
    variants: Sequence[str],
    rates: Sequence[float],
    validate: Callable[[str, float], float],
) -> dict[str, dict[float, float]]:
    """Return how every variant does with every learning rate.

    Args:
      variants: their names.
      rates: learning rates.
      validate: trains a variant with a rate and returns its validation score, the
        higher the better.
    """
    return {
        name: {rate: float(validate(name, rate)) for rate in rates} for name in variants
    }


def choose_rates(found: Sweep) -> dict[str, float]:
    """Return each variant's learning rate with the highest score.

    Examples:
      >>> choose_rates({"plain": {0.1: 1.0, 0.2: 3.0}})
      {'plain': 0.2}
    """
    return {name: max(scores, key=scores.__getitem__) for name, scores in found.items()}


def write_sweep(found: Sweep, what: str, seed: int, bench: Workbench) -> None:
    """Add a table of the sweep, and say who wants a rate at the end of the range.

    Args:
      found: all scores.
      what: what they are.
      seed: that was trained from.
      bench: where the table goes.
    """
    rates = sorted(next(iter(found.values())))
    chosen = choose_rates(found)
    rows = [
        [name, *(f"{abs(scores[rate]):.3f}" for rate in rates), f"{chosen[name]:g}"]
        for name, scores in found.items()
    ]
    columns = ["variant", *(f"{rate:g}" for rate in rates), "chosen"]
    bench.write_table(f"Learning rates: {what}", columns, rows)
    ends = {rates[0], rates[-1]} if len(rates) > 1 else {*()}
    at_end = [name for name, rate in chosen.items() if rate in ends]
    spread = np.mean([np.ptp([*scores.values()]) for scores in found.values()])
    bench.write_text(
        f"Of seed {seed}; every variant is trained from all seeds at its own rate. "
        f"From rate to rate a variant differs by {spread:.3f} on average. "
        + (
            f"At an end of the range: {', '.join(at_end)}."
            if at_end
            else "All are inside."
        )
    )
