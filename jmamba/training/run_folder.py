"""The folder of a run, which one run at a time writes to."""

from pathlib import Path
from typing import IO

import jax

from jmamba.files.errors import FileError
from jmamba.files.exchange import LOCK, lock_file
from jmamba.training.processes import all_agree


def hold_folder(directory: Path) -> IO | None:
    """Make a folder, if need be, and let no other run write to it.

    Of a run's processes the first one does it for all.

    Args:
      directory: the folder.

    Returns:
      What holds it until it is closed; None on other processes than the first.

    Raises:
      FileError: another run holds it.
      ValueError: it cannot be written.
    """
    held, is_first = None, jax.process_index() == 0
    if is_first:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(directory, error) from error
        held = lock_file(directory / LOCK)
    if not all_agree(held is not None or not is_first):
        raise FileError(
            f"Another run is writing to {directory}. Wait until it has ended, or name "
            "another folder."
        )
    return held


def unwritable(directory: Path, error: OSError) -> ValueError:
    """Return what says that a folder cannot be written."""
    return ValueError(
        f"Cannot write to {directory}: {error.strerror}. Name another folder."
    )
