"""Tokens as text that can be read: characters, visible blanks, bytes."""

import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from jmamba.files.tokenizer import BROKEN, MARKS, Offsets, Tokenizer

BLANKS = {" ": "␣", "\u00a0": "⍽"} | MARKS
"""Visible forms of the blanks."""

JOINERS = {"\u200c", "\u200d", *map(chr, range(0xE0020, 0xE0080))}
"""Characters that say how their neighbours are drawn: joined, apart, as a flag."""

JOINED = {"So", "Sk", "Lo", "Mn", "Mc", "Me", "Cf"}
"""Categories of emoji, their colours, letters without case, marks, other joiners."""


class Piece(NamedTuple):
    """Tokens `start` to `stop` that stand for one stretch of text, mostly one token.

    A character may be spread over several tokens (a byte-level model has one per byte
    of UTF-8), and what is read as one over several characters (an emoji and its colour,
    a letter and its accent); they make one piece, because half of it cannot be shown.
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
    def pieces(self) -> tuple[Piece, ...]:
        """The tokens as stretches of text."""
        ...

    @property
    def piece_labels(self) -> list[str]:
        """One readable label per piece."""
        ...


def split_pieces(text: str, offsets: Offsets) -> list[Piece]:
    """Cut a text into the shortest runs of tokens that hold whole graphemes.

    Args:
      text: the text.
      offsets: the characters that each token stands for, as a tokenizer's `offsets`
        returns them. Blanks that no token stands for go to the token behind them.

    Returns:
      Pieces that cover text and tokens once, in order. What a tokenizer adds to the
      text is a piece of its own, without text.

    Examples:
      >>> split_pieces("né", [(0, 1), (1, 2), (1, 2)])
      [Piece(text='n', start=0, stop=1), Piece(text='é', start=1, stop=3)]
    """
    whole = _grapheme_starts(text)
    last_own = max((k for k, (i, j) in enumerate(offsets) if j > i), default=-1)
    tokens, places, reached = [], [], 0
    for token, (first, last) in enumerate(offsets):
        place = whole[bisect_left(whole, reached)]
        if not tokens or first == last or place <= first:  # or added, or behind all
            tokens.append(token)
            places.append(place)
        reached = len(text) if token == last_own else max(reached, last)
    stops, ends = [*tokens[1:], len(offsets)], [*places[1:], len(text)]
    spans = zip(tokens, stops, places, ends, strict=True)
    return [Piece(text[i:k], start, stop) for start, stop, i, k in spans]


def split_graphemes(text: str) -> list[str]:
    """Cut a text into what is read as one character each.

    Examples:
      >>> [len(grapheme) for grapheme in split_graphemes("a👩\\u200d🚀e\\u0301")]
      [1, 3, 2]

    References:
      Unicode Standard Annex 29, extended grapheme clusters.
    """
    starts = _grapheme_starts(text)
    return [text[i:k] for i, k in zip(starts, starts[1:], strict=False)]


def _grapheme_starts(text: str) -> Sequence[int]:
    """Return where what is read as one character begins, and the end of the text."""
    if text.isascii() and "\r" not in text:
        return range(len(text) + 1)
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(r"\X"), "isolated")
    return [0, *(stop for _, (_, stop) in split.pre_tokenize_str(text))]


def visible(text: str, keep: str = "") -> str:
    """Return a text whose blanks and control characters can be seen.

    Joiners within emoji and between letters of a script that has them are no such.

    Args:
      text: the text.
      keep: characters that stay what they are.

    Examples:
      >>> visible(" a\\n")
      '␣a↵'
      >>> visible("\\x00")
      '\\\\x00'
    """
    shown, before = [], ""
    for c in text:
        is_joined = c in JOINERS and unicodedata.category(before or " ") in JOINED
        shown.append(c if is_joined or c in keep else _visible_character(c))
        before = c if is_joined or c.isprintable() else ""
    return "".join(shown)


def isolate(label: str) -> str:
    """Return a label that keeps its own direction within any line of plain text.

    Examples:
      >>> isolate("שלום") == "\\u2068שלום\\u2069"
      True
    """
    return f"\u2068{label}\u2069"


def _visible_character(c: str) -> str:
    if c in BLANKS:
        return BLANKS[c]
    if c.isprintable():
        return c
    return f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}"


def token_label(text: str, spelled: str) -> str:
    """Return the label of a token alone.

    Args:
      text: what it decodes to.
      spelled: how the tokenizer spells it, for what is no whole character.

    Examples:
      >>> token_label("\ufffd", "\\xc3"), token_label(" a", "?")
      ('\\xc3', '␣a')
    """
    return spelled if not text or BROKEN in text else visible(text)


def text_after(before: int, token: int, decode: Callable[[list[int]], str]) -> str:
    """Return what a token adds to the one before it: alone, some lose their blank.

    Examples:
      >>> words = ["▁The", "▁end"]
      >>> def decode(ids):
      ...     return "".join(words[i] for i in ids).replace("▁", " ").strip()
      >>> decode([1]), text_after(0, 1, decode)
      ('end', ' end')
    """
    known, text = decode([before]), decode([before, token])
    return text.removeprefix(known) if text.startswith(known) else decode([token])


def label_next(tokenizer: Tokenizer, before: int, ids: list[int]) -> tuple[str, ...]:
    """Return readable labels of tokens that may come after another.

    Args:
      tokenizer: the model's.
      before: the token that they come after.
      ids: the tokens.

    Examples:
      >>> from jmamba.checkpoints import ByteTokenizer
      >>> label_next(ByteTokenizer(), 97, [98, 10])
      ('b', '↵')
    """
    texts = [text_after(before, i, tokenizer.decode) for i in ids]
    return tuple(map(token_label, texts, tokenizer.pieces(ids)))


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
        label = visible(text) or spelled[start]
        count = stop - start
        parts = [f"{label} {k + 1}/{count}" for k in range(count)]
        labels += [label] if count == 1 else parts
    return labels


def piece_labels(pieces: Sequence[Piece], labels: Sequence[str]) -> list[str]:
    """Return one label per piece.

    Args:
      pieces: the tokens as stretches of text.
      labels: of all tokens, for pieces without text.
    """
    return [visible(text) or labels[start] for text, start, _ in pieces]


def shorten(label: str, width: int = 14) -> str:
    """Cut a label that is too long for an axis, marking the cut.

    Examples:
      >>> shorten("internationalisation", 8)
      'interna…'
    """
    return label if len(label) <= width else label[: width - 1] + "…"
