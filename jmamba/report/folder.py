"""The folder a report is written to: complete, or as it was."""

import dataclasses
import io
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from jmamba.files.errors import CheckpointError
from jmamba.files.exchange import put_in_place, recover
from jmamba.files.folders import check_writable, keep_others
from jmamba.files.untrusted import as_path
from jmamba.progress import Progress, ignore
from jmamba.report.plate import Plate

MAKER = "jmamba "
"""What the makers of reports, commands, have names that begin with."""

SOFTWARE = "jmamba"
"""What the pictures of reports say that they were made by."""

OURS = re.compile(r"[a-z0-9_]+\.png|index\.html|arrays\.npz|summary\.json")
"""Names of files that reports make: no path and no other ending."""

PAGE, ARRAYS, SUMMARY = "index.html", "arrays.npz", "summary.json"


@dataclasses.dataclass(frozen=True)
class Writer:
    """Writes reports of one kind as folders: pictures, page, arrays and summary.

    Everything is made in a hidden folder first, which takes the other's place when it
    is complete, so that a failure leaves what was there before. Files that a report did
    not make stay.

    Attributes:
      directory: where to, if nothing else is said.
      plates: returns the pictures of a report.
      page: returns the page, from the report and its pictures by name.
      summary: returns what goes to summary.json, from the report and the files' names.
      fragment: returns what a notebook shows; None for the page in a frame.
    """

    directory: str
    plates: Callable[[Any], Sequence[Plate]]
    page: Callable[[Any, dict[str, bytes]], str]
    summary: Callable[[Any, list[str]], dict]
    fragment: Callable[[Any], str] | None = None

    def draw(self, report: Any, progress: Progress = ignore) -> dict[str, bytes]:
        """Return the pictures of a report as PNG files, by name."""
        plates, figures = self.plates(report), {}
        for done, plate in enumerate(plates):
            progress("drawing", done, len(plates))
            figures[plate.name] = draw_png(plate.draw(report))
        return figures

    def render(self, report: Any) -> str:
        """Return the page of a report, pictures and all, as one HTML text."""
        return self.page(report, self.draw(report))

    def __call__(
        self,
        report: Any,
        directory: str | os.PathLike | None = None,
        *,
        overwrite: bool = False,
        progress: Progress = ignore,
    ) -> Path:
        """Write a report, and return the path of its page.

        Args:
          report: what to write; it has `arrays()`.
          directory: where to; an earlier report there is replaced.
          overwrite: whether to write into a folder that holds something else.
          progress: called as progress(stage, done, total).

        Raises:
          ValueError: the directory is a file, holds something else or cannot be
            written.
        """
        directory = as_path(self.directory if directory is None else directory)
        check_directory(directory, overwrite=overwrite)
        with put_in_place(directory) as new:
            new.mkdir()
            figures = self.draw(report, progress)
            for name, picture in figures.items():
                (new / f"{name}.png").write_bytes(picture)
            progress("writing the page", 0, 1)
            np.savez_compressed(new / ARRAYS, allow_pickle=False, **report.arrays())
            (new / PAGE).write_text(self.page(report, figures), encoding="utf-8")
            names = sorted(path.name for path in new.iterdir())
            text = json.dumps(self.summary(report, [*names, SUMMARY]), indent=2)
            (new / SUMMARY).write_text(text + "\n", encoding="utf-8")
            stale = _stale(directory)
            keep_others(directory, new, stale.__contains__)
        return directory / PAGE


def check_directory(directory: Path, *, overwrite: bool = False) -> None:
    """Raise unless a report may be written to a directory.

    Raises:
      ValueError: it is a file, holds something that is no report, or cannot be written.
    """
    directory = as_path(directory)
    try:
        recover(Path(os.path.realpath(directory)))
        is_file = directory.exists() and not directory.is_dir()
    except OSError as error:
        raise ValueError(
            f"Cannot write to {directory}: {error.strerror}. Name another folder with "
            "--out."
        ) from error
    if is_file:
        raise ValueError(
            f"{directory} is a file, but the report is a folder; name another with "
            "--out."
        )
    if directory.is_dir() and any(directory.iterdir()):
        if not overwrite and not _files_of_report(directory):
            raise ValueError(
                f"{directory} holds files that are not a report of jmamba. Name "
                "another folder with --out, or write into this one with --overwrite."
            )
    try:
        check_writable(directory)
    except CheckpointError as error:
        raise ValueError(f"{error} On the command line: --out.") from error


def describe_arrays(report: Any) -> dict[str, dict]:
    """Return shape and dtype of each array of a report."""
    return {
        name: {"shape": list(array.shape), "dtype": str(array.dtype)}
        for name, array in report.arrays().items()
    }


def _files_of_report(directory: Path) -> list[str]:
    """Return the files that an earlier report made, none if there was none."""
    try:
        made = json.loads((directory / SUMMARY).read_text(encoding="utf-8"))
        files = made["files"] if made["made_by"].startswith(MAKER) else []
        return [name for name in files if isinstance(name, str)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _stale(directory: Path) -> set[str]:
    """Return the files of an earlier report, which a new one does not keep.

    Pictures are among them only if they say that they are ours: a summary.json may have
    been edited.
    """
    listed = [name for name in _files_of_report(directory) if OURS.fullmatch(name)]
    return {name for name in listed if _is_ours(directory / name)}


def _is_ours(path: Path) -> bool:
    """Say whether a file of a report's name was made by one."""
    if path.suffix != ".png":
        return True
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return picture.info.get("Software") == SOFTWARE
    except (OSError, ValueError):
        return False


def draw_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file with a small white margin."""
    buffer = io.BytesIO()
    figure.savefig(
        buffer,
        format="png",
        bbox_inches="tight",
        pad_inches=0.12,
        metadata={"Software": SOFTWARE},
    )
    return buffer.getvalue()
