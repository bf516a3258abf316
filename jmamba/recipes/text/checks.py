"""What explanations have to do better than: no model, no training, another class."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from jmamba.evaluation import Comparison
from jmamba.recipes.verdicts import decide
from jmamba.recipes.workbench import Workbench

CHECKS = ("the best ranking without a model", "random weights", "the other class")
"""What the score of a method is compared with; the last two by the same method."""

UNTRAINED = 1000
"""Added to a seed for the model with random weights."""


class Checked(NamedTuple):
    """By how much a method is better than each of `CHECKS`, in one reading."""

    reading: str
    differences: list[Comparison]


def write_checks(
    title: str,
    checked: Mapping[str, Checked],
    say: Callable[[Comparison], str],
    bench: Workbench,
) -> None:
    """Add a table of checks, all corrected together.

    Args:
      title: of the table.
      checked: method -> its checks.
      say: writes a difference with its interval.
      bench: where the table goes.
    """
    every = [one for row in checked.values() for one in row.differences]
    verdicts = iter(decide(every))
    rows = []
    for name, (reading, differences) in checked.items():
        cells = [f"{say(one)} {next(verdicts)}" for one in differences]
        passed = sum(cell.endswith("holds") for cell in cells)
        rows.append([name, reading, *cells, f"{passed} of {len(cells)}"])
    columns = ["method", "reading", *(f"over {check}" for check in CHECKS), "holds"]
    bench.write_table(title, columns, rows)
