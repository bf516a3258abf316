"""Do explanations depend on the weights, and on the class that is asked about?"""

from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np

from jmamba.evaluation import Comparison
from jmamba.recipes.emoji import Composites
from jmamba.recipes.verdicts import decide
from jmamba.recipes.vision.explainers import explainers
from jmamba.recipes.vision.measuring import (
    Asked,
    Found,
    Grids,
    ScoredRow,
    explain_pictures,
    measure_all,
    read_all,
    similarity,
)
from jmamba.recipes.vision.scores import compare, measure_location, say, score
from jmamba.recipes.vision.tables import Choice, name_row
from jmamba.recipes.workbench import Workbench

SCORE = "object"
"""What a method is judged by: chance is 50 %, whatever the map looks like."""
Key = TypeVar("Key", bound=Hashable)
CHANGES = ("random weights", "another class")


def other_classes(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return a wrong class for each picture, each of them as often.

    Examples:
      >>> other_classes(np.array([0, 0, 2]), 3).tolist()
      [1, 2, 0]
    """
    shift = 1 + np.arange(len(labels)) % (classes - 1)
    return ((labels + shift) % classes).astype(labels.dtype)


def write_sanity(
    models: Mapping[str, Mapping[str, list]],
    shown: Composites,
    trained: Mapping[ScoredRow, Grids],
    found: Found,
    choice: Choice,
    bench: Workbench,
    *,
    classes: int,
    patch: int,
) -> None:
    """Add a table of what becomes of explanations as weights or the class change.

    A method passes where it finds the object better with the trained weights than with
    random ones, or asked about the right class than about another one. It fails where
    that changes nothing at all, or it finds it worse.

    Args:
      models: "trained" and "random", kind -> models of all seeds.
      shown: the test pictures.
      trained: grids of the trained models.
      found: what was measured of these.
      choice: which reading is reported.
      bench: keeps what is measured.
      classes: how many there are.
      patch: side of a patch.

    References:
      Adebayo et al., "Sanity checks for saliency maps", arXiv 1810.03292.
    """
    asked = {
        "random weights": ("random", Asked(shown, shown.labels)),
        "another class": (
            "trained",
            Asked(shown, other_classes(shown.labels, classes)),
        ),
    }

    def measure(number, numbers, grid):
        return measure_location(
            Composites(*(x[numbers] for x in shown)), grid, patch=patch
        )

    rows = [
        choice.reading(*key, SCORE) for key in dict.fromkeys(row[:2] for row in found)
    ]
    alike, changed = {}, {}
    for change, (weights, question) in asked.items():
        grids = {row: trained[row] for row in rows if row.kind == "none"}
        for kind, those in models[weights].items():
            methods = [explainers(model) for model in those]
            name = f"{kind} {change}"
            explained = explain_pictures(name, methods, question, bench)
            grids |= read_all(kind, explained)
        grids = {row: grids[row] for row in rows}
        changed[change] = measure_all(f"places {change}", grids, measure, bench)
        alike[change] = {row: similarity(trained[row], grids[row]) for row in rows}
    passed = _judge({
        (row, change): compare(found[row], changed[change][row], SCORE)
        for row in rows
        for change in CHANGES
    })  # fmt: skip
    table = []
    for row in rows:
        cells = [say(score(found[row], SCORE), SCORE)]
        for change in CHANGES:
            likeness = score({"similarity": alike[change][row]}, "similarity")
            cells += [
                say(score(changed[change][row], SCORE), SCORE),
                say(likeness, "similarity"),
                passed[row, change],
            ]
        table.append([*name_row(row), *cells])
    columns = ["model", "explanation", "reading", SCORE]
    for change in CHANGES:
        columns += [f"{SCORE}, {change}", "likeness", "check"]
    bench.write_table("Sanity checks", columns, table)


def _judge(drops: Mapping[Key, Comparison]) -> dict[Key, str]:
    """Return what each drop of a score says, those without any spread aside."""
    spread = {key: drop for key, drop in drops.items() if drop.high > drop.low}
    words = {"holds": "passes", "fails": "fails", "undecided here": "undecided here"}
    found = dict(zip(spread, decide(list(spread.values())), strict=True))
    return {key: words[found.get(key, "fails")] for key in drops}
