"""The loss of every step, in a file of lines step,loss that survives interruption."""

import logging
import math
import os
from pathlib import Path
from typing import IO

from jmamba.files.exchange import room_for, write_file

LOSSES = "losses.csv"
"""What the file is called."""

_LOGGER = logging.getLogger("jmamba")


class LossLog:
    """Appends losses to a file; steps that come again are those that count.

    Args:
      path: of the file, which need not exist.
    """

    def __init__(self, path: Path):
        self.path, self.file = path, None

    def append(self, step: int, loss: float) -> None:
        """Add the loss of a step.

        Raises:
          CheckpointError: the disk is full.
        """
        with room_for(self.path, "earlier lines are kept"):
            if self.file is None:
                self.file = self._open(step)
            line = f"{step},{loss:.6f}\n".encode()
            while line:
                line = line[self.file.write(line) :]

    def _open(self, step: int) -> IO:
        """Open the file behind the last step before this one."""
        kept = {s: loss for s, loss in read_losses(self.path).items() if s < step}
        lines = [f"{s},{loss:.6f}\n" for s, loss in sorted(kept.items())]
        write_file(self.path, "".join(lines))
        return self.path.open("ab", buffering=0)  # nothing is left to write at the end

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()


def read_losses(path: str | os.PathLike) -> dict[int, float]:
    """Return step -> loss of a file; lines that are not whole are left out, and said.

    Examples:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp(), "losses.csv")
      >>> _ = path.write_text("1,5.500000\\n2,5.250000\\n")
      >>> read_losses(path)
      {1: 5.5, 2: 5.25}
    """
    path = Path(path)
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    found, bad = {}, []
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        row = _parse_row(line)
        if row is None:
            bad.append(number)
        else:
            found[row[0]] = row[1]
    if bad:
        _LOGGER.warning(
            "%s: left out lines that are no step,loss: %s.",
            *(path, ", ".join(map(str, bad))),
        )
    return found


def _parse_row(line: str) -> tuple[int, float] | None:
    """Return step and loss of a line, None if it is not whole."""
    step, _, loss = line.partition(",")
    try:
        row = int(step), float(loss)
    except ValueError:
        return None
    return row if line.endswith("\n") and row[0] > 0 and math.isfinite(row[1]) else None
