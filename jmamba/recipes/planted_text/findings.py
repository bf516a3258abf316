"""Tables of which explanations find the word that is known to decide."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from jmamba.evaluation import Comparison, compare_over_seeds
from jmamba.recipes.text.baselines import MODEL_FREE
from jmamba.recipes.text.checks import CHECKS, Checked, write_checks
from jmamba.recipes.text.readings import choose_reading
from jmamba.recipes.workbench import Workbench

Scores = Mapping[str, Sequence[Mapping[str, Any]]]
"""Method -> what was measured with each model: split -> reading -> score -> numbers."""

_RANKED = ("validation", "test")

SPLITS = ("random weights", "other class")
"""What is measured beside the validation and the test sentences."""

EXPLAINED = """
First: how often the deciding word has the highest score of its sentence, AUC: the
chance that it is above another word, both in percent, ties counting half; in brackets
95 % of a bootstrap over seeds and sentences, both drawn again. Integrated gradients
start from `<pad>` in place of all words. Readings are the relevance with its sign,
where it is positive, and its magnitude, where these differ; the one that found the word
most often in the validation sentences is marked, and checked below.
"""

CHECKED = """
By how many percentage points more often the marked reading ranks the deciding word
first than (1) the ranking without a model that was best in the validation sentences,
{best}; (2) the same method and reading of a model with random weights; (3) the same of
the other class. A check holds where Holm's correction over all {count}
differences of the table leaves p below 0.05.
"""


def write_found(task: str, scores: Scores, bench: Workbench) -> None:
    """Add the tables of a task."""
    chosen = {name: choose_by_words_found(found) for name, found in scores.items()}
    rows = []
    for name, found in scores.items():
        for reading in _distinct(found):
            first, auc = (
                say_percent(
                    compare_over_seeds(np.mean, stack_scores(found, "test", reading, s))
                )
                for s in ("first", "auc")
            )
            mark = "x" if reading == chosen[name] else ""
            label = reading if len(_distinct(found)) > 1 else "–"
            rows.append([name, label, mark, first, auc])
    columns = ["method", "reading", "chosen", "first, %", "AUC, %"]
    bench.write_table(f"{task}: where the deciding word ranks", columns, rows)
    bench.write_text(EXPLAINED)
    _write_checks(task, scores, chosen, bench)


def _write_checks(task, scores: Scores, chosen: Mapping[str, str], bench) -> None:
    best = max(
        MODEL_FREE,
        key=lambda name: stack_scores(
            scores[name], "validation", "signed", "first"
        ).mean(),
    )
    without = stack_scores(scores[best], "test", "signed", "first")
    checked = {
        name: Checked(
            chosen[name] if len(_distinct(found)) > 1 else "–",
            compare_checks(found, chosen[name], without),
        )
        for name, found in scores.items()
    }
    say = partial(say_percent, sign="+")
    write_checks(f"{task}: sanity checks", checked, say, bench)
    bench.write_text(CHECKED.format(best=best, count=len(CHECKS) * len(checked)))


def choose_by_words_found(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the reading that found the word most often on the validation split."""
    return choose_reading({
        reading: stack_scores(found, "validation", reading, "first")
        for reading in found[0]["validation"]
    })  # fmt: skip


def _distinct(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the readings that rank words unlike the one with signs."""

    def ranks(reading):
        return [[one[split][reading] for split in _RANKED] for one in found]

    return [r for r in found[0]["test"] if r == "signed" or ranks(r) != ranks("signed")]


def compare_checks(
    found: Sequence[Mapping[str, Any]],
    reading: str,
    best: Float[np.ndarray, "s b"],
) -> list[Comparison]:
    """Return how much better a method is than each of `CHECKS`.

    Args:
      found: of one method with each model.
      reading: of its relevance.
      best: how often the best ranking without a model has the word first.
    """
    ours = stack_scores(found, "test", reading, "first")
    others = [best] + [stack_scores(found, check, reading, "first") for check in SPLITS]
    return [compare_over_seeds(np.mean, ours - other) for other in others]


def stack_scores(
    found: Sequence[Mapping[str, Any]], split: str, reading: str, score: str
) -> Float[np.ndarray, "s b"]:
    """Return a score of all models and sentences."""
    return np.array([one[split][reading][score] for one in found])


def say_percent(found: Comparison, *, sign: str = "") -> str:
    """Return a share in percent with its interval.

    Examples:
      >>> say_percent(Comparison(0.5, 0.25, 0.75, 0.0), sign="+")
      '+50.0 [25.0, 75.0]'
    """
    value, low, high = (100 * x for x in found[:3])
    return f"{value:{sign}.1f} [{low:.1f}, {high:.1f}]"
