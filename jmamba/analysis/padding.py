"""Documents of several lengths in one array."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int32

from jmamba.analysis.documents import Documents
from jmamba.analysis.kinds import TOKEN_AXES


def read_batch(
    documents: Documents, start: int, stop: int, batch: int, pad: Callable[[int], int]
) -> tuple[Int32[np.ndarray, "b l"], Int32[np.ndarray, "b"]]:
    """Return the tokens of documents, padded, and how many each has.

    What lacks to a whole batch is filled up with its last document.

    Args:
      documents: all there are.
      start, stop: the first, and one past the last.
      batch: rows that are returned.
      pad: returns the length that one is padded to.
    """
    read = [np.asarray(documents.read(number)) for number in range(start, stop)]
    read += [read[-1]] * (batch - len(read))
    lengths = np.asarray([len(x) for x in read], np.int32)
    tokens = np.zeros((batch, pad(int(lengths.max()))), np.int32)
    for row, x in enumerate(read):
        tokens[row, : len(x)] = x
    return tokens, lengths


def round_length(length: int, multiple: int = 1) -> int:
    """Return the length that a document is padded to: a power of two, or 3/2 of one.

    Less than a third of it is padding.

    Args:
      length: of the document.
      multiple: that it is to be of.

    Examples:
      >>> [round_length(length) for length in (5, 9, 13, 1000)]
      [8, 12, 16, 1024]
    """
    powers = (2**n for n in itertools.count(3))
    rungs = itertools.chain.from_iterable((n, n // 2 * 3) for n in powers)
    rung = next(rung for rung in rungs if rung >= length)
    return -(-rung // multiple) * multiple


def blank_padding(
    rows: np.ndarray, axes: Sequence[str], lengths: Int32[np.ndarray, "b"]
) -> np.ndarray:
    """Return rows cut to the longest document, with nothing behind the others' ends.

    Nothing is NaN, and -1 of whole numbers.

    Args:
      rows: of an array, a document each.
      axes: names of its axes.
      lengths: tokens of each document.

    Examples:
      >>> rows = np.arange(6).reshape(2, 3)
      >>> blank_padding(rows, ("document", "token"), np.array([2, 1], np.int32))
      array([[ 0,  1],
             [ 3, -1]])
    """
    rows = np.array(rows) if rows.dtype.kind in "iu" else np.array(rows, np.float32)
    empty = np.nan if rows.dtype.kind == "f" else -1
    for axis, name in enumerate(axes):
        if name not in TOKEN_AXES:
            continue
        rows = np.take(rows, np.arange(lengths.max()), axis)
        inside = np.arange(lengths.max())[None] < lengths[:, None]
        shape = [1] * rows.ndim
        shape[0], shape[axis] = inside.shape
        rows = np.where(inside.reshape(shape), rows, rows.dtype.type(empty))
    return rows
