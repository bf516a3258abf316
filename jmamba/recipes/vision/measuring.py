"""Explaining pictures with all models, and measuring all readings, once each."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jmamba.evaluation import evaluate, rank_correlation
from jmamba.recipes.emoji import Composites
from jmamba.recipes.vision.explainers import READINGS, Explainer, readings_of
from jmamba.recipes.vision.scores import Measured
from jmamba.recipes.workbench import Workbench

BATCH = 24
"""Pictures that are explained together."""


class ScoredRow(NamedTuple):
    """A row of a table: a method's relevance of a model, in one reading.

    Attributes:
      kind: of the model, "vim", "vit", or "none" for maps that ask no model.
      method: its name.
      reading: one of `READINGS`.
    """

    kind: str
    method: str
    reading: str


Grids = Float[np.ndarray, "s b rows columns"]
Found = Mapping[ScoredRow, Measured]


class Asked(NamedTuple):
    """Pictures, and the class of each that is asked about."""

    pictures: Composites
    target: Int[np.ndarray, "b"]


def explain_pictures(
    name: str,
    methods: Sequence[Mapping[str, Explainer]],
    asked: Asked,
    bench: Workbench,
) -> dict[str, Measured]:
    """Explain pictures by all methods of several models, or read what was explained.

    Args:
      name: of the files that keep what was explained.
      methods: of each model, name -> explainer.
      asked: what is explained.
      bench: keeps it.

    Returns:
      Method -> "grid" (s, b, rows, columns), and of integrated gradients "gap" and
      "change" (s, b).
    """

    def measure(method, numbers, *, explain):
        images, target = asked.pictures.images[numbers], asked.target[numbers]
        return {
            key: array
            for key, array in explain[method](images, target)._asdict().items()
            if array is not None
        }

    return _over_seeds(f"grids {name}", methods, len(asked.target), measure, bench)


def read_all(kind: str, explained: Mapping[str, Measured]) -> dict[ScoredRow, Grids]:
    """Return all readings of explanations of one kind of model."""
    return {
        ScoredRow(kind, method, reading): READINGS[reading](found["grid"])
        for method, found in explained.items()
        for reading in readings_of(kind, method)
    }


def measure_all(
    name: str,
    grids: Mapping[ScoredRow, Grids],
    measure: Callable[[int, list[int], np.ndarray], Measured],
    bench: Workbench,
) -> dict[ScoredRow, Measured]:
    """Measure grids, or read what was measured.

    Args:
      name: of the files that keep it.
      grids: what is measured.
      measure: function of the number of a seed, those of pictures, and their grids.
      bench: keeps it.

    Returns:
      ScoredRow -> arrays over seeds and pictures.
    """
    seeds, count = next(iter(grids.values())).shape[:2]
    rows = {" | ".join(row): row for row in grids}
    of_seed = [
        {key: (number, grids[row][number]) for key, row in rows.items()}
        for number in range(seeds)
    ]

    def run(key, numbers, *, explain):
        number, grid = explain[key]
        return measure(number, numbers, grid[numbers])

    found = _over_seeds(name, of_seed, count, run, bench)
    return {row: found[key] for key, row in rows.items()}


def similarity(first: Grids, second: Grids) -> Float[np.ndarray, "s b"]:
    """Return the rank correlation of grids, 0 where one is constant."""
    found = [
        [rank_correlation(a, b) for a, b in zip(x, y, strict=True)]
        for x, y in zip(first, second, strict=True)
    ]
    return np.nan_to_num(np.array(found))


def _over_seeds(name, methods, count, measure, bench) -> dict[str, Measured]:
    """Measure methods of every seed, and stack what was measured."""
    folder = bench.directory / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, of_seed in enumerate(methods):
        key = f"{name} {number}"

        def run(method, numbers, of_seed=of_seed):
            return measure(method, numbers, explain=of_seed)

        def report(progress, key=key):
            bench.show(key, progress.done, progress.total)

        found.append(
            evaluate(
                run,
                list(of_seed),
                [str(i) for i in range(count)],
                settings={"run": key},
                path=folder / f"{key.replace(' ', '-')}.jsonl",
                batch=BATCH,
                report=report,
            )
        )
    return {
        method: {
            field: np.stack([one[method].values[field] for one in found])
            for field in found[0][method].values
        }
        for method in found[0]
    }
