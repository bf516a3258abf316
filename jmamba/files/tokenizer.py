"""Tokenizers: what turns a text into a model's tokens and back.

A checkpoint says which one it has: a `tokenizer.json`, or `"tokenizer": "bytes"` in its
`config.json` for models whose tokens are the bytes of the UTF-8 text.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jmamba.files.errors import CheckpointError
from jmamba.files.folders import TEXT_FILES
from jmamba.files.hub import locate_files, locate_templates
from jmamba.files.json_files import read_json
from jmamba.files.untrusted import reading

BYTES = "bytes"
"""Value of "tokenizer" in the config.json of a byte-level model."""


BROKEN = "\ufffd"
"""What decoding makes of bytes that are no character."""

MARKS = {"\n": "↵", "\t": "⇥", "\r": "⇤"}
"""What line ends and tabs are shown as; DejaVu, which comes with matplotlib, has it."""

Offsets = list[tuple[int, int]]
"""First character of each token, and the one after its last."""


@runtime_checkable
class Tokenizer(Protocol):
    """What turns a text into tokens and back; `eos_ids` are those that end a text."""

    eos_ids: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        ...

    def offsets(self, text: str) -> Offsets:
        """Return the characters that each token of `encode(text)` stands for."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        ...

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return one readable string per token."""
        ...


class ByteTokenizer:
    """Tokens are the bytes of the UTF-8 text.

    Args:
      eos_ids: ids that end a text, which have no text themselves.

    Attributes:
      vocab_size: how many tokens there are.

    Examples:
      >>> tokenizer = ByteTokenizer()
      >>> tokenizer.encode("né")
      [110, 195, 169]
      >>> tokenizer.decode([110, 195, 169])
      'né'
      >>> tokenizer.pieces([110, 195, 10])
      ['n', '\\\\xc3', '↵']
    """

    vocab_size = 256

    def __init__(self, eos_ids: Sequence[int] = ()):
        self.eos_ids = tuple(eos_ids)

    def encode(self, text: str) -> list[int]:
        """Return the bytes of a text.

        Raises:
          TypeError: the text is no str.
          ValueError: it is empty or not valid Unicode.
        """
        return list(_check_text(text).encode("utf-8"))

    def offsets(self, text: str) -> Offsets:
        """Return the character that each byte of a text is a part of.

        Raises:
          TypeError, ValueError: as in `encode`.

        Examples:
          >>> ByteTokenizer().offsets("né")
          [(0, 1), (1, 2), (1, 2)]
        """
        sizes = (len(c.encode("utf-8")) for c in _check_text(text))
        return [(i, i + 1) for i, size in enumerate(sizes) for _ in range(size)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of bytes; what is not UTF-8 becomes a replacement mark.

        Raises:
          ValueError: an id is not a byte.
        """
        return bytes(_check_ids(ids, 256)).decode("utf-8", errors="replace")

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return one readable string per byte.

        Raises:
          ValueError: an id is not a byte.
        """
        return [_readable(bytes([i])) for i in _check_ids(ids, 256)]


class FileTokenizer:
    """The tokenizer of a `tokenizer.json`, run by the `tokenizers` library.

    Args:
      file: the file.
      eos_ids: ids that end a text.
      described: what the file says, where it says it otherwise than as JSON.

    Attributes:
      vocab_size: how many tokens there are, added ones too.

    Raises:
      CheckpointError: the file cannot be read.
    """

    def __init__(
        self,
        file: Path,
        eos_ids: Sequence[int] = (),
        described: dict[str, Any] | None = None,
    ):
        import tokenizers

        self.eos_ids = tuple(eos_ids)
        described = read_json(file) if described is None else described
        with reading(file, "is no tokenizer that this version of tokenizers reads"):
            _keep_blanks(described.get("post_processor"))
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(described))
            self._tokenizer.no_padding()  # a file may ask for any length
            self._tokenizer.no_truncation()
        self.vocab_size: int = self._tokenizer.get_vocab_size()
        self._bytes = {char: byte for byte, char in enumerate(byte_alphabet())}
        splitter = self._tokenizer.pre_tokenizer
        # Words were separated by the blanks that are dropped, anything else by nothing.
        self._drops_blanks = splitter is not None and not any(
            " " in part or "▁" in part or "Ġ" in part
            for part, _ in splitter.pre_tokenize_str("a a")
        )

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text.

        Raises:
          TypeError: the text is no str.
          ValueError: it is empty or not valid Unicode.
        """
        return self._tokenizer.encode(_check_text(text)).ids

    def offsets(self, text: str) -> Offsets:
        """Return the characters that each token of a text stands for.

        Raises:
          TypeError, ValueError: as in `encode`.
        """
        return self._tokenizer.encode(_check_text(text)).offsets

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids; ids of padded rows are left out.

        Where the file says nothing of decoding, tokens follow each other without
        blanks, if they are read so: `tokenizers` would put a blank between any two.

        Raises:
          ValueError: an id is negative.
        """
        ids = _check_ids(ids, None)
        if self._tokenizer.decoder is None:
            tokens = [self._tokenizer.id_to_token(i) for i in ids]
            joined = "".join(token for token in tokens if token is not None)
            read = self._tokenizer.encode(joined, add_special_tokens=False).ids
            if not self._drops_blanks or read == ids:
                return joined
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return one readable string per token, with its spaces.

        Raises:
          ValueError: an id is negative.
        """
        return [self._piece(i) for i in _check_ids(ids, None)]

    def _piece(self, index: int) -> str:
        token = self._tokenizer.id_to_token(index)
        if token is None:  # a padded row of the embedding
            return f"<{index}>"
        if all(char in self._bytes for char in token):
            return _readable(bytes(self._bytes[char] for char in token))
        return _readable(token.replace("▁", " ").encode("utf-8"))


def copy_tokenizer(
    tokenizer: str | os.PathLike | None,
    folder: Path,
    *,
    revision: str | None = None,
    required: bool = True,
) -> dict[str, Any]:
    """Copy a tokenizer's files into a folder; return what config.json is to say.

    All files are copied that transformers reads a tokenizer from, chat templates too.

    Args:
      tokenizer: folder or Hub id that has them, "bytes", or None for none.
      folder: where to copy them.
      revision: branch, tag or commit on the Hub.
      required: whether it is an error if there are none.

    Raises:
      CheckpointError: they are required and not there.
    """
    if tokenizer is None:
        return {}
    if tokenizer == BYTES:
        return {"tokenizer": BYTES}
    files = locate_files(tokenizer, ("config.json", *TEXT_FILES), revision=revision)
    config = files.pop("config.json", None)
    if files:
        files |= locate_templates(tokenizer, revision=revision)
    for name, file in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(file, folder / name)
    if config and read_json(config).get("tokenizer") == BYTES:
        return {"tokenizer": BYTES}
    if required and "tokenizer.json" not in files:
        raise CheckpointError(
            f"{tokenizer} holds no tokenizer.json to copy; give the folder or Hub id "
            'that does, "bytes", or no tokenizer.'
        )
    return {}


def _check_text(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, but is {type(text).__name__}.")
    if not text:
        raise ValueError("The text is empty; give at least one character.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The text is not valid Unicode at position {error.start}; read it "
            "as UTF-8."
        ) from error
    return text


def _check_ids(ids: Sequence[int], size: int | None) -> list[int]:
    found = [int(i) for i in ids]
    wrong = [i for i in found if i < 0 or (size is not None and i >= size)]
    if wrong:
        below = "at least 0" if size is None else f"in [0, {size})"
        raise ValueError(f"Token ids must be {below}, but are {wrong[:8]}.")
    return found


def _readable(piece: bytes) -> str:
    """Return bytes as text, with a mark for line ends and tabs and \\x for the rest."""
    text = piece.decode("utf-8", errors="backslashreplace")
    return "".join(MARKS.get(c, c) for c in text)


def _keep_blanks(processor: dict[str, Any] | None) -> None:
    """Let the offsets of tokens hold their blanks, which some files ask to trim."""
    if processor is None:
        return
    if "trim_offsets" in processor:
        processor["trim_offsets"] = False
    for inner in processor.get("processors", ()):
        _keep_blanks(inner)


def byte_alphabet() -> str:
    """Return the 256 letters by which byte-level vocabularies write bytes (GPT-2).

    Visible characters stand for themselves, the others for those from U+0100 on.
    """
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return "".join(chr(b if b in visible else next(others)) for b in range(256))
