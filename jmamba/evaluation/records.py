"""Measurements of single samples, in a file that survives interruption."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jmamba.files.differences import differing_keys, tell_differences
from jmamba.files.errors import FileError
from jmamba.files.exchange import room_for
from jmamba.files.untrusted import as_path

FORMAT = 1
"""Version of the file's layout."""

_START = b'{"records": '
"""What every file of records begins with: no other is ever cut or thrown away."""


_LOGGER = logging.getLogger("jmamba")


class Measurements(NamedTuple):
    """What was measured of every sample by one method.

    Attributes:
      names: of the samples.
      values: what was measured -> one number or array per sample, (samples, ...).
    """

    names: tuple[str, ...]
    values: dict[str, np.ndarray]


class RecordFile:
    """Lines of JSON: the settings, then one line for each method and sample.

    A block of lines is written at once and is on disk when `append` returns. What an
    interruption leaves of a last line is cut off when the file is opened again.

    Args:
      path: of the file, which need not exist; None to keep records in memory only.
      settings: all that the measurements depend on but method and sample, as JSON has
        it; a file of other settings is refused.
      restart: whether a file that is there is thrown away.

    Raises:
      ValueError: the file is of other settings or is not one of records, or settings
        are no JSON.
    """

    def __init__(
        self,
        path: str | Path | None,
        settings: Mapping[str, Any],
        *,
        restart: bool = False,
    ):
        self.path = None if path is None else Path(path)
        self.found: dict[str, dict[str, dict[str, Any]]] = {}
        text = _canonical(settings)
        if self.path is None:
            return
        self.path = as_path(self.path)
        lines = _read_lines(self.path, repair=True)
        if restart and lines:
            self.path.unlink()
            lines = []
        if lines:
            _check_settings(self.path, lines[0], json.loads(text))
            self.found = _collect(self.path, lines[1:])
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            key = hashlib.sha256(text.encode()).hexdigest()
            head = {"records": FORMAT, "key": key, "settings": json.loads(text)}
            self._write([head])

    def append(
        self, method: str, names: Sequence[str], values: Mapping[str, Any]
    ) -> None:
        """Add what one method measured of some samples.

        Args:
          method: its name.
          names: of the samples.
          values: what was measured -> one number or array per sample.

        Raises:
          ValueError: values do not fit the samples or earlier records of the method, or
            are not finite.
        """
        rows = _rows(method, names, values)
        done = self.found.setdefault(method, {})
        earlier = next(iter(done.values()), rows[0])
        if earlier.keys() != rows[0].keys():
            raise ValueError(
                f"{method} measured {', '.join(rows[0])}, but before that "
                f"{', '.join(earlier)}; measure the same, or give restart=True."
            )
        if self.path is not None:
            lines = [
                {"method": method, "sample": name, "values": row}
                for name, row in zip(names, rows, strict=True)
            ]
            self._write(lines)
        done.update(zip(names, rows, strict=True))

    def _write(self, lines: list[dict]) -> None:
        assert self.path is not None
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        size = self.path.stat().st_size if self.path.exists() else 0
        with room_for(self.path, "records that were there before are kept"):
            try:
                with self.path.open("ab") as file:
                    file.write(text.encode())
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:  # half a block must not stand before the next one
                with suppress(OSError):
                    os.truncate(self.path, size)
                raise


def read_records(path: str | Path) -> dict[str, Measurements]:
    """Return what a file of records holds: method -> measurements, in their order.

    Raises:
      ValueError: there is no such file, or it is not one of records.
    """
    path = as_path(path)
    lines = _read_lines(path, repair=False)
    if not lines:
        raise FileError(f"There are no records in {path}; run evaluate first.")
    found = _collect(path, lines[1:])
    return {method: gather(rows, tuple(rows)) for method, rows in found.items()}


def gather(rows: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> Measurements:
    """Return records of single samples as arrays over samples.

    Args:
      rows: sample -> what was measured of it.
      names: samples, in the order wanted.

    Examples:
      >>> rows = {"a": {"area": 1.5}, "b": {"area": 2.0}}
      >>> gather(rows, ("b", "a")).values["area"].tolist()
      [2.0, 1.5]
    """
    fields = rows[names[0]] if names else ()
    values = {key: np.asarray([rows[name][key] for name in names]) for key in fields}
    return Measurements(tuple(names), values)


def _canonical(settings: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(settings), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"settings={settings!r} cannot be written as JSON ({error}); give numbers, "
            "texts, lists and dicts of these."
        ) from error


def _read_lines(path: Path, *, repair: bool) -> list[dict]:
    """Return all whole lines, and cut a last one that is not whole off the file."""
    if not path.exists():
        return []
    if not path.is_file():
        raise FileError(f"{path} is no file; give one that evaluate wrote.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}.") from error
    if content[: len(_START)] != _START[: len(content)]:
        raise FileError(
            f"{path} is no file of records; give one that evaluate wrote, or a new one."
        )
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        _LOGGER.warning(
            "The last line of %s was not written to its end, and is left out.", path
        )
        if repair:
            os.truncate(path, whole)
    lines = []
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        try:
            parsed = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FileError(
                f"Line {number} of {path} is no JSON ({error}); delete that line, or "
                "give another path."
            ) from error
        lines.append(parsed if isinstance(parsed, dict) else {})
    return lines


def _check_settings(path: Path, head: dict, wanted: dict) -> None:
    if head.get("records") != FORMAT or not isinstance(head.get("settings"), dict):
        raise FileError(
            f"{path} has records of format {head.get('records')}, but this version "
            f"writes format {FORMAT}; give another path."
        )
    there = head["settings"]
    if there == wanted:
        return
    changes = tell_differences(there, wanted, differing_keys(there, wanted))
    raise FileError(
        f"{path} holds results of other settings: {changes}. Give another "
        "path, or restart=True to throw them away."
    )


def _collect(path: Path, lines: list[dict]) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for number, line in enumerate(lines, start=2):
        method, sample, values = map(line.get, ("method", "sample", "values"))
        if not (
            isinstance(method, str)
            and isinstance(sample, str)
            and isinstance(values, dict)
        ):
            raise FileError(f"Line {number} of {path} is no record; delete it.")
        there = found.setdefault(method, {})
        earlier = next(iter(there.values()), values)
        if _shapes(values) is None or _shapes(values) != _shapes(earlier):
            raise FileError(
                f"Line {number} of {path} holds no measurements like the others': "
                f"finite numbers, or lists of them, by name. Delete it."
            )
        there[sample] = values
    return found


def _shapes(values: Any) -> dict[str, tuple[int, ...]] | None:
    """Return the shape of each measurement, None if they are not finite numbers."""
    if not isinstance(values, dict):
        return None
    shapes = {}
    for name, value in values.items():
        try:
            array = np.asarray(value)
        except (ValueError, OverflowError, RecursionError):  # lists of several lengths
            return None
        if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
            return None
        shapes[name] = array.shape
    return shapes


def _rows(method: str, names: Sequence[str], values: Mapping[str, Any]) -> list[dict]:
    """Return one dict per sample, made of Python's own numbers and lists."""
    arrays = {key: np.asarray(value) for key, value in values.items()}
    for key, array in arrays.items():
        if array.shape[:1] != (len(names),) or array.dtype.kind not in "biuf":
            raise ValueError(
                f"{method} measured {key} as {array.dtype} of shape {array.shape}, but "
                f"must give numbers for each of {len(names)} samples."
            )
        bad = [
            name
            for name, value in zip(names, array, strict=True)
            if not np.isfinite(value).all()
        ]
        if bad:
            raise ValueError(f"{method} measured {key} not finite of {bad}.")
    lists = {key: array.tolist() for key, array in arrays.items()}
    return [{key: lists[key][i] for key in lists} for i in range(len(names))]
