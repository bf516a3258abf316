"""The tables of scores: a row for every reading of every method."""

from collections.abc import Mapping, Sequence

import numpy as np

from jmamba.evaluation import FILLINGS, Comparison
from jmamba.recipes.verdicts import decide
from jmamba.recipes.vision.explainers import IG_BASELINE, INTEGRATED, readings_of
from jmamba.recipes.vision.measuring import Found, ScoredRow
from jmamba.recipes.vision.scores import (
    PLACES,
    Measured,
    better,
    compare,
    say,
    score,
    value,
)
from jmamba.recipes.workbench import Workbench

MODELS = {"none": "no model", "vim": "Vim", "vit": "ViT"}
MOST_MISSED = 0.01
"""Part of the logit's change that integrated gradients may miss without a mark."""

COLUMNS: Mapping[str, Sequence[str]] = {
    "Finding the object": PLACES,
    "Flipping": ("flipping", *(f"{filling} flipping" for filling in FILLINGS)),
    "Most relevant patches first": [f"{filling} positive" for filling in FILLINGS],
    "Least relevant patches first": [f"{filling} negative" for filling in FILLINGS],
}
"""Table -> its scores."""


class Choice:
    """Readings by what validation pictures say of them, one for each score.

    Args:
      validation: what was measured of the validation pictures.
    """

    def __init__(self, validation: Found):
        self.validation = validation

    def reading(self, kind: str, method: str, name: str) -> ScoredRow:
        """Return the row of a method that is reported by a score."""
        rows = [
            ScoredRow(kind, method, reading) for reading in readings_of(kind, method)
        ]
        return better({row: self.validation[row] for row in rows}, name)


def write_scores(
    test: Found, choice: Choice, gaps: Mapping[str, Measured], bench: Workbench
) -> None:
    """Add all tables of scores; bold are the readings that are reported."""
    for title, names in COLUMNS.items():
        table = []
        for row, values in test.items():
            cells = [
                _mark(say(score(values, name), name), row, choice, name)
                for name in names
            ]
            table.append([*name_row(row, gaps), *cells])
        columns = ["model", "explanation", "reading", *names]
        bench.write_table(title, columns, table)


def _mark(text: str, row: ScoredRow, choice: Choice, name: str) -> str:
    many = len(readings_of(row.kind, row.method)) > 1
    is_chosen = many and choice.reading(row.kind, row.method, name) == row
    return f"**{text}**" if is_chosen else text


def name_row(row: ScoredRow, gaps: Mapping[str, Measured] | None = None) -> list[str]:
    """Return model, explanation and reading as a table has them."""
    name = row.method.replace("_", " ")
    if row.method == INTEGRATED and gaps is not None:
        gap = value(gaps[INTEGRATED], "gap")
        name += f" from the {IG_BASELINE} colour, gap {100 * gap:.2f} %"
        name += ", NOT CONVERGED" if gap > MOST_MISSED else ""
    return [MODELS[row.kind], name, row.reading]


AGAINST = ("object", "mAP", "mIoU")
"""Scores by which methods are compared with maps that ask no model."""


def least_gain(test: Found, row: ScoredRow, name: str) -> tuple[str, Comparison]:
    """Return the map without a model that a row is least surely better than, and how.

    A method is better than no model where it is better than each such map: of the
    differences the one of largest p value speaks for all (intersection-union test).
    """
    gains = {
        other.method: compare(test[row], values, name)
        for other, values in test.items()
        if other.kind == "none"
    }
    return min(
        gains.items(), key=lambda gain: np.copysign(1 - gain[1].p_value, gain[1].value)
    )


def write_gains(test: Found, choice: Choice, bench: Workbench) -> None:
    """Add whether methods are better than all maps that ask no model."""
    methods = dict.fromkeys(row[:2] for row in test if row.kind != "none")
    rows = [
        (choice.reading(kind, method, name), name)
        for kind, method in methods
        for name in AGAINST
    ]
    gains = [least_gain(test, row, name) for row, name in rows]
    verdicts = decide([gain for _, gain in gains])
    said = [
        f"{say(gain, name)} over {other}, {row.reading}: {verdict}"
        for (row, name), (other, gain), verdict in zip(
            rows, gains, verdicts, strict=True
        )
    ]
    width = len(AGAINST)
    table = [
        [*name_row(ScoredRow(*key, ""))[:2], *said[width * i : width * (i + 1)]]
        for i, key in enumerate(methods)
    ]
    columns = ["model", "explanation", *AGAINST]
    bench.write_table("Better than no model", columns, table)
