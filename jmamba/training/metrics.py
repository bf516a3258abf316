"""What every step measures, in a file of JSON lines that survives interruption."""

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from jmamba.files.exchange import room_for, write_file

METRICS = "metrics.jsonl"
"""What the file is called."""

_LOGGER = logging.getLogger("jmamba")


class MetricsLog:
    """Appends what steps measure to a file; steps that come again are those that count.

    Args:
      path: of the file, which need not exist.
    """

    def __init__(self, path: Path):
        self.path, self.file = path, None

    def append(self, step: int, **values: float | None) -> None:
        """Add what a step measured; what is None is left out.

        Raises:
          CheckpointError: the disk is full.
        """
        with room_for(self.path, "earlier lines are kept"):
            if self.file is None:
                self.file = self._open(step)
            line = _row(step, values).encode()
            while line:
                line = line[self.file.write(line) :]

    def _open(self, step: int) -> IO:
        """Open the file behind the last step before this one."""
        kept = {s: row for s, row in read_metrics(self.path).items() if s < step}
        write_file(self.path, "".join(_row(s, kept[s]) for s in sorted(kept)))
        return self.path.open("ab", buffering=0)  # nothing is left to write at the end

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()


def read_metrics(path: str | os.PathLike) -> dict[int, dict[str, float]]:
    """Return step -> name -> value; lines that are not whole are left out, and said.

    Examples:
      >>> import tempfile
      >>> log = MetricsLog(Path(tempfile.mkdtemp(), METRICS))
      >>> log.append(1, loss=5.5, gradient_norm=2.0)
      >>> log.close()
      >>> read_metrics(log.path)
      {1: {'loss': 5.5, 'gradient_norm': 2.0}}
    """
    path = Path(path)
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    found, bad = {}, []
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        row = _parse(line)
        if row is None:
            bad.append(number)
        else:
            found[row.pop("step")] = row
    if bad:
        _LOGGER.warning(
            "%s: left out lines that are no step and its loss: %s.",
            *(path, ", ".join(map(str, bad))),
        )
    return found


def _row(step: int, values: Mapping[str, float | None]) -> str:
    said = {k: float(f"{v:.7g}") for k, v in values.items() if v is not None}
    return json.dumps({"step": step} | said) + "\n"


def _parse(line: str) -> dict[str, Any] | None:
    """Return step and values of a line, None if it is not whole."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not line.endswith("\n") or not isinstance(row, dict) or "loss" not in row:
        return None
    step = row.get("step")
    numbers = all(_is_number(value) for value in row.values())
    return row if numbers and isinstance(step, int) and step > 0 else None


def _is_number(x: Any) -> bool:
    is_one = isinstance(x, int | float) and not isinstance(x, bool)
    return is_one and abs(x) < math.inf  # nor NaN
