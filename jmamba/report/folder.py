"""The folder a report is written to: complete, or not there."""

import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jmamba.report.depth import Progress, ignore
from jmamba.report.dynamics.plates import DYNAMICS_PLATES
from jmamba.report.image.plates import IMAGE_PLATES
from jmamba.report.page import page
from jmamba.report.text.explanation import Explanation
from jmamba.report.text.plates import PLATES, Plate, plates_of
from jmamba.report.theory.plates import PORTRAIT_PLATES

MADE_BY, MADE_BY_DYNAMICS = "jmamba explain", "jmamba dynamics"
MADE_BY_PORTRAITS = "jmamba reproduce dynamics-figures"
PAGE, ARRAYS, SUMMARY = "index.html", "arrays.npz", "summary.json"


def write(
    explanation: Explanation,
    directory: str | os.PathLike = "jmamba-out",
    *,
    overwrite: bool = False,
    progress: Progress = ignore,
) -> Path:
    """Write pictures, page, arrays and summary of an explanation.

    Everything is made in a hidden folder first and moved when it is complete, so that
    a failure leaves what was there before. Files that a report did not make are never
    removed.

    Args:
      explanation: what to write.
      directory: where to; an earlier report there is replaced.
      overwrite: whether to write into a folder that holds something else.
      progress: called as progress(stage, done, total).

    Returns:
      The path of the page.

    Raises:
      ValueError: the directory is a file, holds something else or cannot be written.
    """
    return write_folder(
        explanation,
        directory,
        plates=plates_of(explanation),
        make_page=page,
        make_summary=summary,
        overwrite=overwrite,
        progress=progress,
    )


def write_folder(
    report: Any,
    directory: str | os.PathLike,
    *,
    plates: Sequence[Plate],
    make_page: Callable[[Any, dict[str, bytes]], str],
    make_summary: Callable[[Any, list[str]], dict],
    overwrite: bool,
    progress: Progress,
) -> Path:
    """Write a report of any kind; see `write`.

    Args:
      report: what to write; it has `arrays()`.
      directory: where to.
      plates: its pictures.
      make_page: the page, from the report and its pictures by name.
      make_summary: what goes to summary.json, from the report and the files' names.
      overwrite: whether to write into a folder that holds something else.
      progress: called as progress(stage, done, total).
    """
    directory = Path(directory)
    check_directory(directory, overwrite=overwrite)
    with _beside(directory) as new:
        figures = {}
        for done, plate in enumerate(plates):
            progress("drawing", done, len(plates))
            figures[plate.name] = draw_png(plate.draw(report))
            (new / f"{plate.name}.png").write_bytes(figures[plate.name])
        progress("writing the page", 0, 1)
        np.savez_compressed(new / ARRAYS, allow_pickle=False, **report.arrays())
        (new / PAGE).write_text(make_page(report, figures), encoding="utf-8")
        names = sorted(path.name for path in new.iterdir())
        text = json.dumps(make_summary(report, [*names, SUMMARY]), indent=2)
        (new / SUMMARY).write_text(text + "\n", encoding="utf-8")
        _move(new, directory)
    return directory / PAGE


def check_directory(directory: Path, *, overwrite: bool = False) -> None:
    """Raise unless a report may be written to a directory.

    Raises:
      ValueError: it is a file, holds something that is no report, or cannot be written.
    """
    if directory.exists() and not directory.is_dir():
        raise ValueError(
            f"{directory} is a file, but the report is a folder; name another with "
            "--out."
        )
    if directory.is_dir() and any(directory.iterdir()):
        if not overwrite and not _files_of_report(directory):
            raise ValueError(
                f"{directory} holds files that are not a report of {MADE_BY}. Name "
                "another folder with --out, or write into this one with --overwrite."
            )
    nearest = directory
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(
            f"Cannot write to {directory}: {nearest} is not a writable folder. Name "
            "another with --out."
        )


def summary(explanation: Explanation, files: list[str]) -> dict:
    """Return what was run and what came out, ready for JSON."""
    best = explanation.predictions
    names = zip(explanation.ids.tolist(), explanation.labels, strict=True)
    return {
        "made_by": MADE_BY,
        "model": explanation.model,
        "text": explanation.text,
        "tokens": [{"id": i, "label": label} for i, label in names],
        "pieces": [piece._asdict() for piece in explanation.pieces],
        "predictions": [
            {"id": int(i), "label": label, "probability": float(p)}
            for i, p, label in zip(
                best.ids, best.probabilities, best.labels, strict=True
            )
        ],
        "settings": explanation.settings,
        "environment": explanation.environment,
        "seconds": explanation.timings,
        "arrays": describe_arrays(explanation),
        "files": files,
    }


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
        makers = (MADE_BY, MADE_BY_DYNAMICS, MADE_BY_PORTRAITS)
        files = made["files"] if made["made_by"] in makers else []
        return [name for name in files if isinstance(name, str)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


@contextmanager
def _beside(directory: Path):
    """Make a hidden folder on the file system of a directory; remove it at the end."""
    try:
        parent = directory if directory.is_dir() else directory.parent
        parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=".jmamba-", dir=parent))
    except OSError as error:
        raise ValueError(
            f"Cannot write to {directory}: {error.strerror}. Name another folder with "
            "--out."
        ) from error
    try:
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _move(new: Path, directory: Path) -> None:
    """Move a complete report into place, the summary last."""
    plates = (*PLATES, *IMAGE_PLATES, *DYNAMICS_PLATES, *PORTRAIT_PLATES)
    known = {PAGE, ARRAYS, SUMMARY, *(f"{plate.name}.png" for plate in plates)}
    stale = known & set(_files_of_report(directory))
    directory.mkdir(exist_ok=True)
    paths = sorted(new.iterdir(), key=lambda path: path.name == SUMMARY)
    for path in paths:
        os.replace(path, directory / path.name)
        stale.discard(path.name)
    for name in stale:
        (directory / name).unlink(missing_ok=True)


def draw_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file with a small white margin."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.12)
    return buffer.getvalue()
