"""Measuring several methods on a data set, in a run that can be resumed."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jmamba.evaluation.records import Measurements, RecordFile, gather


class EvaluationReport(NamedTuple):
    """How far a run is.

    Attributes:
      method: what measured last.
      done: measurements there are, of a method on a sample.
      total: measurements there will be.
      resumed: how many of them an earlier run had made.
    """

    method: str
    done: int
    total: int
    resumed: int


def evaluate(
    measure: Callable[[str, list[int]], Mapping[str, Any]],
    methods: Sequence[str],
    names: Sequence[str],
    *,
    settings: Mapping[str, Any],
    path: str | Path | None = None,
    batch: int = 16,
    restart: bool = False,
    report: Callable[[EvaluationReport], None] = lambda report: None,
) -> dict[str, Measurements]:
    """Measure every sample by every method, once, however often the run is interrupted.

    What is measured of a batch is on disk before the next one begins; a run that finds
    measurements there goes on from them. Samples are known by their names, so that
    samples and methods may be added later.

    Args:
      measure: function of a method's name and the numbers of some samples to what was
        measured, name -> one number or array per sample, such as
        `count_segmentation(...)._asdict()`.
      methods: their names.
      names: of the samples.
      settings: all else that the measurements depend on: data, checkpoint, options.
      path: a file of lines of JSON for them; None keeps none.
      batch: samples that are measured together.
      restart: whether to throw away what the file holds.
      report: called after each batch of each method.

    Returns:
      Method -> measurements, samples in the order of `names`.

    Raises:
      ValueError: the file is of other settings, two samples or methods have one name,
        or what was measured does not fit.

    Examples:
      >>> def measure(method, numbers):
      ...     return {"area": [len(method) * 10.0 + number for number in numbers]}
      >>> found = evaluate(measure, ["lrp", "random"], ["a", "b", "c"], settings={})
      >>> found["random"].values["area"].tolist()
      [60.0, 61.0, 62.0]
    """
    if batch < 1:
        raise ValueError(f"batch={batch}: give at least 1.")
    for what, given in (("methods", methods), ("names", names)):
        twice = [name for name, count in Counter(given).items() if count > 1]
        if twice or not given or isinstance(given, str):
            raise ValueError(
                f"{what} must be a list of different names, at least one, but "
                f"{f'{twice[:5]} come twice' if twice else f'is {given!r}'}."
            )
    records = RecordFile(path, settings, restart=restart)
    done = resumed = sum(
        name in records.found.get(method, {}) for method in methods for name in names
    )
    for start in range(0, len(names), batch):
        for method in methods:
            there = records.found.get(method, {})
            block = range(start, min(start + batch, len(names)))
            numbers = [number for number in block if names[number] not in there]
            if not numbers:
                continue
            values = measure(method, numbers)
            records.append(method, [names[number] for number in numbers], values)
            done += len(numbers)
            report(EvaluationReport(method, done, len(methods) * len(names), resumed))
    return {method: gather(records.found[method], names) for method in methods}
