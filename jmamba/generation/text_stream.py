"""Texts that come token by token: characters that are whole, and where to stop."""

from collections.abc import Callable, Collection, Sequence

import numpy as np

from jmamba.files.tokenizer import BROKEN


class TextStream:
    """Turns tokens into text one at a time, holding back unfinished characters.

    Args:
      decode: the tokenizer's map from ids to text.
      context: tokens before the first one.

    Examples:
      >>> stream = TextStream(lambda ids: bytes(ids).decode(errors="replace"), b"n")
      >>> [stream.push(token) for token in "é!".encode()]
      ['', 'é', '!']
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], context: Sequence[int]):
        self._decode = decode
        self._before = list(context[-4:])  # a decoder may need the word before
        self._held: list[int] = []

    def push(self, token: int) -> str:
        """Return the text that a token completes, empty if it completes none."""
        self._held.append(token)
        known = self._decode(self._before) if self._before else ""
        text = self._decode([*self._before, *self._held])
        # No character takes more than four bytes: what is longer will never be one.
        if text.endswith(BROKEN) and len(self._held) < 4:
            return ""
        self._before, self._held = self._held, []
        return text[len(known) :]

    def rest(self) -> str:
        """Return what is still held back."""
        return self._decode(self._held) if self._held else ""


class StopStrings:
    """Finds the rows whose text has just come to one of some strings.

    A string counts that ends in the new text; it may begin in the prompt.

    Args:
      strings: what ends a text.
      decode: the tokenizer's map from ids to text.
      contexts: tokens before the first new one, of each row.
      silent: tokens without a text, which are not decoded.

    Examples:
      >>> decode = lambda ids: bytes(ids).decode(errors="replace")
      >>> stop = StopStrings(["end"], decode, [b"th", b"e"])
      >>> [stop(np.array(step), np.array([True, True])).tolist()
      ...  for step in (list(b"en"), list(b"nd"), list(b"d!"))]
      [[False, False], [False, True], [True, False]]
    """

    def __init__(
        self,
        strings: Sequence[str],
        decode: Callable[[Sequence[int]], str],
        contexts: Sequence[Sequence[int]],
        *,
        silent: Collection[int] = (),
    ):
        contexts = [[i for i in row if i not in silent] for row in contexts]
        self._silent = silent
        self._strings = tuple(strings)
        self._kept = max(map(len, self._strings)) - 1
        self._streams = [TextStream(decode, row) for row in contexts]
        # no character has more than four tokens
        tails = (row[-4 * self._kept - 4 :] for row in contexts)
        self._tails = [decode(tail) if tail else "" for tail in tails]

    def __call__(self, tokens: np.ndarray, running: np.ndarray) -> np.ndarray:
        """Return which rows stop, given the new token of each that is running."""
        return np.array(
            [
                bool(go) and self._hear(i, int(token))
                for i, (token, go) in enumerate(zip(tokens, running, strict=True))
            ]
        )

    def _hear(self, row: int, token: int) -> bool:
        if token in self._silent:
            return False
        tail, new = self._tails[row], self._streams[row].push(token)
        text = tail + new
        self._tails[row] = text[len(text) - self._kept :] if self._kept else ""
        return any(
            text.find(stop, max(0, len(tail) - len(stop) + 1)) >= 0
            for stop in self._strings
        )


class StoppedText:
    """Passes a text on up to the first of some strings, which it leaves out.

    What may be the beginning of one is held back.

    Args:
      strings: what ends the text; () for nothing.

    Examples:
      >>> text = StoppedText(["end"])
      >>> [text.push(part) for part in ("spen", "t, e", "nd", "more")]
      ['sp', 'ent, ', '', '']
    """

    def __init__(self, strings: Sequence[str] = ()):
        self._strings, self._held, self._ended = tuple(strings), "", False

    def push(self, part: str) -> str:
        """Return what of the text is sure to come before a string that ends it."""
        if self._ended:
            return ""
        text = self._held + part
        ends = [i for i in (text.find(stop) for stop in self._strings) if i >= 0]
        if ends:
            self._ended, self._held = True, ""
            return text[: min(ends)]
        held = max((_overlap(text, stop) for stop in self._strings), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def rest(self) -> str:
        """Return what is still held back."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of a text may begin a string."""
    sizes = range(min(len(text), len(stop) - 1), 0, -1)
    return next((n for n in sizes if text.endswith(stop[:n])), 0)
