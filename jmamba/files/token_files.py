"""Tokenized texts in a folder: memory-mapped shards, and an index that lists them.

tokens.json            what tokens they are, and how many are in which shard
tokens-00000.npy       tokens of whole documents, one after the other
documents-00000.npy    where in them documents begin
SHA256SUMS             of all files
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, Integer

from jmamba.files.checksums import compare_checksums, digest, write_checksums
from jmamba.files.errors import FileError
from jmamba.files.folders import CHECKSUMS
from jmamba.files.json_files import read_json
from jmamba.files.untrusted import check_regular, first_line

INDEX = "tokens.json"
"""File that describes the others."""

SHARD_TOKENS = 2**26
"""Tokens after which a shard is full, if a document ends there."""

_DTYPES = (np.uint8, np.uint16, np.uint32)


class TokenShard(NamedTuple):
    """Tokens of whole documents.

    Attributes:
      tokens: one after the other, on disk until they are read.
      starts: where documents begin, from 0 on.
    """

    tokens: Integer[np.ndarray, "n"]
    starts: Int64[np.ndarray, "k"]


class TokenFolder(NamedTuple):
    """Tokenized texts.

    Attributes:
      folder: where they are.
      about: what `tokens.json` says: `vocab_size`, `tokenizer` ("bytes", or None for
        the files beside it), `tokens` and `documents` in all, and `shards`.
      shards: in order.
    """

    folder: Path
    about: dict[str, Any]
    shards: tuple[TokenShard, ...]

    def fingerprint(self) -> str:
        """Return a short text that differs between other tokens."""
        sums = self.folder / CHECKSUMS
        return digest(sums if sums.is_file() else self.folder / INDEX)[:16]


def smallest_dtype(vocab_size: int) -> np.dtype:
    """Return the smallest whole numbers that hold all tokens.

    Examples:
      >>> [smallest_dtype(size).name for size in (256, 50_280, 262_144)]
      ['uint8', 'uint16', 'uint32']
    """
    fits = (kind for kind in _DTYPES if vocab_size - 1 <= np.iinfo(kind).max)
    return np.dtype(next(fits))


def write_tokens(
    documents: Iterable[np.ndarray],
    folder: Path,
    *,
    vocab_size: int,
    tokenizer: str | None,
    shard_tokens: int = SHARD_TOKENS,
) -> dict[str, Any]:
    """Write documents into a new folder, a shard at a time, and return its index.

    Args:
      documents: tokens of each.
      folder: that is there and empty but for the tokenizer's files.
      vocab_size: tokens that there can be.
      tokenizer: "bytes", or None for the files in the folder.
      shard_tokens: after which a shard is full.

    Raises:
      FileError: there are no tokens.
    """
    dtype = smallest_dtype(vocab_size)
    full = _fill(documents, shard_tokens)
    shards = [
        _write_shard([x.astype(dtype) for x in held], folder, number)
        for number, held in enumerate(full)
    ]
    if not shards:
        raise FileError("There are no tokens to write; give files with text in them.")
    index = {
        "vocab_size": vocab_size,
        "tokenizer": tokenizer,
        "tokens": sum(one["tokens"] for one in shards),
        "documents": sum(one["documents"] for one in shards),
        "shards": shards,
    }
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    write_checksums(folder)
    return index


def _fill(
    documents: Iterable[np.ndarray], shard_tokens: int
) -> Iterator[list[np.ndarray]]:
    """Yield documents by shards."""
    held, tokens = [], 0
    for document in documents:
        if len(document):
            held.append(document)
            tokens += len(document)
        if tokens >= shard_tokens:
            yield held
            held, tokens = [], 0
    if held:
        yield held


def _write_shard(
    documents: list[np.ndarray], folder: Path, number: int
) -> dict[str, Any]:
    """Write one shard, and return its entry in the index."""
    sizes = [len(document) for document in documents]
    starts = np.cumsum([0, *sizes[:-1]]).astype(np.int64)
    np.save(folder / f"tokens-{number:05}.npy", np.concatenate(documents))
    np.save(folder / f"documents-{number:05}.npy", starts)
    return {"number": number, "tokens": sum(sizes), "documents": len(sizes)}


def read_tokens(folder: Path, *, check: bool = True) -> TokenFolder:
    """Return the tokens of a folder, which stay on disk until they are read.

    Args:
      folder: that `write_tokens` filled.
      check: whether all files are compared with their checksums.

    Raises:
      FileError: a file is missing, damaged, or not as the index says.
    """
    if not (folder / INDEX).exists():
        raise FileError(
            f"{folder} is a folder without {INDEX}, which tokenized texts have: make "
            "one by jmamba tokenize FILES --out FOLDER, or give a text file."
        )
    index = read_json(folder / INDEX)
    try:
        entries = [
            {name: int(one[name]) for name in ("number", "tokens", "documents")}
            for one in index["shards"]
        ]
        size = int(index["vocab_size"])
        smallest_dtype(size)
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise FileError(
            f"{folder / INDEX} does not describe tokens; tokenize the texts again."
        ) from error
    shards = tuple(_read_shard(folder, entry, size) for entry in entries)
    if check:
        compare_checksums(folder)
    return TokenFolder(folder, index, shards)


def _read_shard(folder: Path, entry: dict[str, int], vocab_size: int) -> TokenShard:
    number, dtype = entry["number"], smallest_dtype(vocab_size)
    tokens = _map(folder / f"tokens-{number:05}.npy", (entry["tokens"],), dtype)
    starts = _map(
        folder / f"documents-{number:05}.npy", (entry["documents"],), np.dtype(np.int64)
    )
    return TokenShard(tokens, starts)


def _map(file: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array in a file, without reading it."""
    if not file.exists():
        raise FileError(
            f"{file} is missing, which {INDEX} beside it lists; copy it again, or "
            "tokenize the texts again."
        )
    check_regular(file)
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FileError(
            f"{file} is damaged ({first_line(error)}); copy it again, or tokenize the "
            "texts again."
        ) from error
    if found.shape != shape or found.dtype != dtype:
        raise FileError(
            f"{file} holds {found.shape} of {found.dtype}, and {INDEX} says {shape} of "
            f"{dtype}; copy it again, or tokenize the texts again."
        )
    return found
