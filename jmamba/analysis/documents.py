"""Documents to analyse: tokens of each, read when they are asked for."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, Integer

from jmamba.files.errors import FileError
from jmamba.files.token_files import TokenFolder, read_tokens, smallest_dtype
from jmamba.training.documents import encode_document, read_documents


class Documents(NamedTuple):
    """Documents by their numbers.

    Attributes:
      lengths: tokens of each.
      read: returns the tokens of one, by its number.
      names: what each is called; () for by their numbers alone.
      vocab_size: tokens that there can be; None where that is not said.
    """

    lengths: Int64[np.ndarray, "k"]
    read: Callable[[int], Integer[np.ndarray, "l"]]
    names: tuple[str, ...] = ()
    vocab_size: int | None = None

    def cut(self, length: int | None) -> "Documents":
        """Return them without what is behind so many tokens of each."""
        if length is None:
            return self
        if length < 1:
            raise ValueError(f"length={length}: give at least 1, or None for all.")
        read = self.read
        return self._replace(
            lengths=np.minimum(self.lengths, length),
            read=lambda number: read(number)[:length],
        )


def as_documents(given: Documents | Sequence[Any]) -> Documents:
    """Return documents that are given as arrays of tokens.

    Raises:
      TypeError: one is no array of whole numbers.
      ValueError: there are none, or one is empty.

    Examples:
      >>> as_documents([[1, 2, 3], [4]]).lengths.tolist()
      [3, 1]
    """
    if isinstance(given, Documents):
        return given
    arrays = [np.asarray(one) for one in given]
    for number, x in enumerate(arrays):
        if x.ndim != 1 or x.dtype.kind not in "iu" and x.size:
            raise TypeError(
                f"Document {number} is {x.dtype} of shape {x.shape}; give the tokens "
                "of each as whole numbers along one axis."
            )
    lengths = np.asarray([len(x) for x in arrays], np.int64)
    return Documents(lengths, arrays.__getitem__)


def open_documents(paths: Sequence[Path], tokenizer: Any) -> Documents:
    """Return the documents of texts, or of a folder that `jmamba tokenize` made.

    Tokens of texts are held; those of a folder stay on disk.

    Args:
      paths: texts, plain or .gz, of .jsonl a document in every line; or one folder.
      tokenizer: of the texts.

    Raises:
      ValueError: a text cannot be read, or there are texts beside a folder.
    """
    folders = [path for path in paths if path.is_dir()]
    if folders and len(paths) > 1:
        raise FileError(
            f"{folders[0]} is a folder; give one of tokenized texts alone, or texts."
        )
    if folders:
        return _of_folder(read_tokens(folders[0]))
    dtype, names, tokens = smallest_dtype(tokenizer.vocab_size), [], []
    for file in paths:
        for number, text in enumerate(read_documents(file)):
            names.append(f"{file.name}:{number}" if _has_many(file) else file.name)
            tokens.append(encode_document(text, file, tokenizer).astype(dtype))
    return as_documents(tokens)._replace(
        names=tuple(names), vocab_size=tokenizer.vocab_size
    )


def _has_many(file: Path) -> bool:
    return ".jsonl" in file.suffixes


def _of_folder(texts: TokenFolder) -> Documents:
    firsts = np.cumsum([0, *(len(shard.starts) for shard in texts.shards)])
    lengths = [np.diff([*s.starts, len(s.tokens)]) for s in texts.shards]
    return Documents(
        np.concatenate(lengths).astype(np.int64),
        partial(_read_of, texts, firsts),
        vocab_size=int(texts.about["vocab_size"]),
    )


def _read_of(texts: TokenFolder, firsts: np.ndarray, number: int) -> np.ndarray:
    """Return the tokens of one document of a folder."""
    place = int(np.searchsorted(firsts, number, side="right")) - 1
    shard, own = texts.shards[place], number - int(firsts[place])
    ends = [*shard.starts[own + 1 : own + 2], len(shard.tokens)]
    return np.asarray(shard.tokens[int(shard.starts[own]) : int(ends[0])])


def check_documents(documents: Documents, vocab_size: int) -> str:
    """Return a short text that differs between other documents, if all can be read.

    Each is read once, and none is kept.

    Args:
      documents: to look at.
      vocab_size: tokens that the model knows.

    Raises:
      ValueError: there are none, one is empty, or has tokens that the model does not
        know.
    """
    if not len(documents.lengths):
        raise ValueError("There are no documents to analyse; give at least one.")
    seen = hashlib.sha256()
    for number, length in enumerate(documents.lengths):
        name = documents.names[number] if documents.names else f"Document {number}"
        tokens = documents.read(number) if length else np.zeros(0, np.int64)
        if not length:
            raise ValueError(f"{name} is empty; leave it out.")
        least, most = int(tokens.min()), int(tokens.max())
        if least < 0 or most >= vocab_size:
            raise ValueError(
                f"{name} has the token {most if least >= 0 else least}, and the model "
                f"knows 0 to {vocab_size - 1:,}: tokenize it with the model's own "
                "tokenizer."
            )
        seen.update(tokens.astype("<u4").tobytes() + b"|")
    return seen.hexdigest()[:16]
