"""The folder of an analysis: what it is of, and arrays that grow by whole documents.

settings.json     what the arrays depend on
results.zarr/     a Zarr group (version 3), an array for each thing that is measured
    tokens        (document, token), padded with 0
    length        (document,), tokens of each
    finished      (document,), 1 where all arrays have the document
    ...           (document, ...), padded with NaN, or -1 of whole numbers
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jmamba.analysis.arrays import OWN
from jmamba.analysis.kinds import TOKEN_AXES
from jmamba.files.differences import (
    differing_keys,
    flatten_settings,
    tell_differences,
)
from jmamba.files.errors import FileError
from jmamba.files.exchange import room_for, write_file
from jmamba.files.json_files import read_json
from jmamba.files.untrusted import as_path
from jmamba.files.zarr_files import (
    RowArray,
    clear_locks,
    create_group,
    open_rows,
    read_rows,
    write_rows,
)
from jmamba.training.processes import all_agree
from jmamba.training.run_folder import hold_folder
from jmamba.training.settings import SETTINGS

GROUP_FOLDER = "results.zarr"
"""The group's folder."""

FREE = ("version",)
"""Settings that may differ when an analysis goes on."""


class AnalysisFolder:
    """A folder that documents are written to, of which nobody else writes to it.

    Of several processes the first one writes.

    Args:
      directory: the folder.
      settings: all that the arrays depend on, as JSON has it.
      attributes: of the group, for its readers.
      arrays: name -> what it is to be; rows are documents.
      batch: documents that are written together.

    Raises:
      ValueError: the folder is of another analysis, another one is writing to it, it
        holds other files, or cannot be written.
    """

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, Any],
        attributes: Mapping[str, Any],
        arrays: Mapping[str, RowArray],
        batch: int,
    ):
        self.directory, self.batch = as_path(directory), batch
        self._held = hold_folder(self.directory)
        try:
            self._claim(json.loads(json.dumps(dict(settings))))
            group, error = self.directory / GROUP_FOLDER, None
            self._stores: dict[str, Any] = {}
            if jax.process_index() == 0:
                try:
                    with self._room():
                        create_group(group, attributes)
                        clear_locks(group)
                        for name, array in arrays.items():
                            self._stores[name] = open_rows(group, name, array, batch)
                except (ValueError, OSError) as raised:
                    error = raised
            _agree(error)
            whole = np.asarray(read_rows(group)["finished"].read().result()) == 1
            self.finished = whole  # of each document
            all_agree(True)  # nobody writes before all have read
        except BaseException:
            self.close()
            raise

    def _claim(self, wanted: dict[str, Any]) -> None:
        """Raise unless the folder is new, or an analysis of the same settings."""
        file = self.directory / SETTINGS
        if file.exists():
            found = flatten_settings(read_json(file))
            asked = flatten_settings(wanted)
            if different := differing_keys(found, asked, FREE):
                raise FileError(
                    f"{self.directory} holds another analysis: "
                    f"{tell_differences(found, asked, different)}. Ask for the same, "
                    "or name another folder."
                )
            return
        there = [path.name for path in self.directory.iterdir()]
        foreign = sorted(x for x in there if x != "lock" and not x.startswith("."))
        if not all_agree(not foreign):
            raise FileError(
                f"{self.directory} holds files that are of no analysis: "
                f"{', '.join(foreign[:5])}. Name a new folder."
            )
        if jax.process_index() == 0:
            with self._room():
                write_file(file, json.dumps(wanted, indent=1) + "\n")

    def write(self, name: str, start: int, rows: np.ndarray) -> None:
        """Write a batch of documents of one array.

        Args:
          name: of the array.
          start: the first document.
          rows: of the documents.

        Raises:
          ValueError: the disk is full.
        """
        error = None
        if jax.process_index() == 0:
            try:
                with self._room():
                    write_rows(self._stores[name], start, rows)
            except (ValueError, OSError) as raised:
                error = raised
        _agree(error)

    def finish(self, start: int, stop: int) -> None:
        """Say that all arrays have the documents from start to stop - 1."""
        self.write("finished", start, np.ones(stop - start, np.uint8))
        self.finished[start:stop] = True

    def close(self) -> None:
        """Let others write to the folder."""
        if self._held is not None:
            self._held.close()

    def _room(self):
        return room_for(self.directory, "documents that are finished are kept")


class AnalysedDocuments:
    """What an analysis found, read as it is asked for.

    Args:
      directory: that `analyse` wrote, finished or not.

    Attributes:
      arrays: name -> `tensorstore.TensorStore`, documents first, padded.
      lengths: tokens of each document; 0 where it is not finished.
      finished: which documents are there.
      about: what they depend on.

    Raises:
      FileError: the folder is of no analysis, or damaged.
    """

    def __init__(self, directory: str | Path):
        directory = as_path(directory)
        if not (directory / SETTINGS).is_file():
            raise FileError(
                f"{directory} is the folder of no analysis; make one by jmamba analyse."
            )
        self.about = read_json(directory / SETTINGS)
        self.arrays = read_rows(directory / GROUP_FOLDER)
        missing = [name for name in OWN if name not in self.arrays]
        if missing:
            raise FileError(f"{directory} lacks {', '.join(missing)}; copy it again.")
        self.finished = np.asarray(self.arrays["finished"].read().result()) == 1
        lengths = np.asarray(self.arrays["length"].read().result())
        self.lengths = np.where(self.finished, lengths, 0)

    def document(self, number: int) -> dict[str, np.ndarray]:
        """Return all that was found of one document, without padding.

        Raises:
          IndexError: there is no such document, or it is not finished.
        """
        if not 0 <= number < len(self.lengths) or not self.finished[number]:
            raise IndexError(
                f"Document {number} of {len(self.lengths)} is not there, or not "
                "finished."
            )
        length = int(self.lengths[number])
        found = {}
        for name, store in self.arrays.items():
            if name in OWN[1:]:
                continue
            axes = store.spec().to_json()["metadata"]["dimension_names"]
            cut = tuple(slice(0, length if x in TOKEN_AXES else None) for x in axes[1:])
            found[name] = np.asarray(store[(number, *cut)].read().result())
        return found

    def __repr__(self) -> str:
        """Return what is there, without the numbers."""
        names = ", ".join(name for name in self.arrays if name not in OWN)
        done = int(self.finished.sum())
        return f"{names} of {done} of {len(self.finished)} documents"


def _agree(error: Exception | None) -> None:
    """Raise on all processes if one has failed."""
    if not all_agree(error is None):
        raise error or FileError("The first process could not write its files.")
