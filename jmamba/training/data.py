"""Bytes to train on and to measure on."""

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Integer, UInt8

from jmamba.files.errors import FileError
from jmamba.files.untrusted import as_path, check_regular


class ByteSplits(NamedTuple):
    """The three parts of a byte corpus, in file order."""

    train: UInt8[np.ndarray, "n"]
    validation: UInt8[np.ndarray, "n"]
    test: UInt8[np.ndarray, "n"]


def read_bytes(path: str | Path) -> UInt8[np.ndarray, "n"]:
    """Read a file as bytes; a `.gz` file is unpacked on the way.

    Raises:
      ValueError: there is no such file, it is empty or not a gzip file.
    """
    path = as_path(path, error_class=FileError)
    check_regular(path, error_class=FileError)
    try:
        raw = path.read_bytes()
        data = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError) as error:
        raise ValueError(
            f"Cannot read {path}: {error}. Give a plain file or a "
            "whole .gz file, for example enwik8 or enwik8.gz."
        ) from error
    if not data:
        raise ValueError(f"{path} is empty; give a file with text in it.")
    return np.frombuffer(data, np.uint8)


def split_bytes(
    data: UInt8[np.ndarray, "n"], *, validation: float = 0.05, test: float = 0.05
) -> ByteSplits:
    """Cut a corpus into its first part to train on and two last parts to measure on.

    On enwik8 the default is the usual split of 90, 5 and 5 million bytes.

    Raises:
      ValueError: a part would be empty.
    """
    held_out = [int(len(data) * part) for part in (validation, test)]
    stop = len(data) - sum(held_out)
    if min(*held_out, stop) < 2:
        raise ValueError(
            f"{len(data)} bytes are too few to split into training, validation "
            f"({validation:.0%}) and test ({test:.0%}) parts; give a longer file."
        )
    return ByteSplits(*np.split(data, [stop, stop + held_out[0]]))


def check_windows(size: int, length: int) -> None:
    """Raise unless a text is longer than a window.

    Raises:
      ValueError: it is not.
    """
    if size <= length + 1:
        raise ValueError(
            f"{size} bytes hold no window of {length} + 1 bytes; give a longer file or "
            "a shorter length."
        )


def sample_windows(
    data: Integer[np.ndarray, "n"], *, batch: int, length: int, seed: int, step: int
) -> Int32[np.ndarray, "b w"]:
    """Draw random windows of length + 1 tokens, the same ones for a seed and step.

    Raises:
      ValueError: the data are shorter than a window.
    """
    check_windows(len(data), length)
    rng = np.random.default_rng((seed, step))
    starts = rng.integers(0, len(data) - length, size=batch)
    return data[starts[:, None] + np.arange(length + 1)].astype(np.int32)
