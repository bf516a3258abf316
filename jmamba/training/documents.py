"""Texts to train on, as documents of tokens."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jmamba.files.errors import FileError
from jmamba.files.tokenizer import ByteTokenizer, FileTokenizer
from jmamba.training.data import read_bytes


def tokenize_files(
    files: Sequence[Path], tokenizer: ByteTokenizer | FileTokenizer
) -> Iterator[np.ndarray]:
    """Yield the tokens of each document; the first id that ends a text is put behind.

    Args:
      files: a text each, plain or .gz; of .jsonl, an object with "text" in every line.
      tokenizer: of the tokens.

    Raises:
      ValueError: a file cannot be read, is no UTF-8, or holds what is no text.
    """
    end = list(tokenizer.eos_ids[:1])
    for file in files:
        for text in read_documents(file):
            tokens = encode_document(text, file, tokenizer)
            yield np.append(tokens, np.asarray(end, tokens.dtype)) if end else tokens


def encode_document(
    text: bytes, file: Path, tokenizer: ByteTokenizer | FileTokenizer
) -> np.ndarray:
    """Return the tokens of a text, without any that ends it.

    Args:
      text: the document.
      file: where it is from, for messages.
      tokenizer: of the tokens.

    Raises:
      ValueError: it is no UTF-8.

    Examples:
      >>> encode_document(b"hi", Path("a.txt"), ByteTokenizer()).tolist()
      [104, 105]
    """
    if isinstance(tokenizer, ByteTokenizer):
        return np.frombuffer(text, np.uint8)
    return np.asarray(tokenizer.encode(_decode(text, file)), np.uint32)


def read_documents(file: Path) -> Iterator[bytes]:
    """Yield the texts of a file; see `tokenize_files`."""
    content = read_bytes(file).tobytes()
    if ".jsonl" not in file.suffixes:
        yield content
        return
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            text = json.loads(line)["text"]
            found = text.encode("utf-8")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise FileError(
                f'Line {number} of {file} is no JSON object with a "text"; each line '
                'is to be one, such as {"text": "once upon a time"}.'
            ) from error
        if found:
            yield found


def _decode(text: bytes, file: Path) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(
            f"{file} is not UTF-8 ({error.reason} at byte {error.start}); convert it, "
            "or tokenize its bytes: --tokenizer bytes."
        ) from error
