"""Tokens as text that can be read: characters, visible blanks, bytes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from jmamba.files.tokenizer import BROKEN

BLANKS = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍", "\u00a0": "⍽"}
"""Visible forms of the blanks."""


class Piece(NamedTuple):
    """Tokens `start` to `stop` that stand for one stretch of text, mostly one token.

    A character may be spread over several tokens (a byte-level model has one per byte
    of UTF-8); they make one piece, because half a character cannot be shown.
    """

    text: str
    start: int
    stop: int


@runtime_checkable
class TokenReport(Protocol):
    """A report on the tokens of one text: what token axes are drawn from."""

    @property
    def labels(self) -> tuple[str, ...]:
        """One readable label per token."""
        ...

    @property
    def starts(self) -> list[str]:
        """The visible text of each piece at its first token, nothing at the others."""
        ...

    @property
    def norms(self) -> np.ndarray:
        """The norm of each token before the first layer and after each."""
        ...


def split_pieces(
    ids: Sequence[int], decode: Callable[[Sequence[int]], str]
) -> list[Piece]:
    """Cut token ids into the shortest runs that decode to whole characters.

    Args:
      ids: token ids.
      decode: the tokenizer's map from ids to text.

    Returns:
      Pieces that cover every token once, in order. Bytes that never become a
      character are pieces of one token whose text is U+FFFD.

    Examples:
      >>> ids = list("né".encode())
      >>> split_pieces(ids, lambda ids: bytes(ids).decode(errors="replace"))
      [Piece(text='n', start=0, stop=1), Piece(text='é', start=1, stop=3)]
    """
    pieces, start = [], 0
    while start < len(ids):
        stop, text = _shortest(ids, start, pieces, decode)
        pieces.append(Piece(text, start, stop))
        start = stop
    return pieces


def _shortest(ids, start, pieces, decode):
    """Return the end and the text of the piece that starts at a token.

    Text is what the tokens add to the piece before them: alone, some decoders drop a
    leading blank. No character has more than four bytes.
    """
    before = ids[pieces[-1].start : start] if pieces else ids[:0]
    if pieces and BROKEN in pieces[-1].text:
        before = ids[:0]
    known = decode(before) if len(before) else ""
    for stop in range(start + 1, min(start + 4, len(ids)) + 1):
        text = decode([*before, *ids[start:stop]])
        if text.startswith(known) and BROKEN not in text[len(known) :]:
            return stop, text[len(known) :]
    return start + 1, BROKEN


def visible(text: str) -> str:
    """Return a text whose blanks and control characters can be seen.

    Examples:
      >>> visible(" a\\n")
      '␣a↵'
      >>> visible("\\x00")
      '\\\\x00'
    """
    return "".join(_visible_character(c) for c in text)


def _visible_character(c: str) -> str:
    if c in BLANKS:
        return BLANKS[c]
    if c.isprintable():
        return c
    return f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}"


def token_label(text: str, spelled: str) -> str:
    """Return the label of a stretch of text.

    Args:
      text: what it decodes to.
      spelled: how the tokenizer spells the token, for what is no whole character.

    Examples:
      >>> token_label("\ufffd", "\\xc3"), token_label(" a", "?")
      ('\\xc3', '␣a')
    """
    return spelled if not text or BROKEN in text else visible(text)


def token_labels(pieces: Sequence[Piece], spelled: Sequence[str]) -> list[str]:
    """Return one label per token; parts of one character are counted.

    Args:
      pieces: the tokens as stretches of text.
      spelled: how the tokenizer spells each token.

    Examples:
      >>> token_labels([Piece("n", 0, 1), Piece("é", 1, 3)], ["n", "?", "?"])
      ['n', 'é 1/2', 'é 2/2']
    """
    labels = []
    for text, start, stop in pieces:
        label = token_label(text, spelled[start])
        count = stop - start
        parts = [f"{label} {k + 1}/{count}" for k in range(count)]
        labels += [label] if count == 1 else parts
    return labels


def shorten(label: str, width: int = 14) -> str:
    """Cut a label that is too long for an axis, marking the cut.

    Examples:
      >>> shorten("internationalisation", 8)
      'interna…'
    """
    return label if len(label) <= width else label[: width - 1] + "…"
