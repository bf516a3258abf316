"""Words of a text, made of the pieces that its tokens are."""

import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from jmamba.figures.labels import BLANKS, Piece, shorten

LONG_WORD = 16
"""Tokens of a word that is split where places in it are named."""


def word_stretches(
    pieces: Sequence[Piece], labels: Sequence[str], step: int, width: int = 10
) -> dict[int, str]:
    """Return places in a text that are so far apart, and what is read from each.

    Places begin words, and words end in them, unless a word is too long.

    Args:
      pieces: the tokens as stretches of text.
      labels: of the pieces.
      step: fewest tokens from one place to the next.
      width: most characters of a stretch.

    Examples:
      >>> text = "we were there"
      >>> pieces = [Piece(c, i, i + 1) for i, c in enumerate(text)]
      >>> word_stretches(pieces, list(text), 4)
      {0: 'we were', 8: 'there'}
    """
    begins = [_begins_word(before, piece) for before, piece in pairwise(pieces)]
    places = [0]
    for i, begins_here in enumerate(begins, 1):
        far = pieces[i].start - pieces[places[-1]].start
        if far >= max(2 * step, LONG_WORD) or (far >= step and begins_here):
            places.append(i)
    stretches = {}
    for first, stop in pairwise([*places, len(pieces)]):
        text, end = "", first
        while end < stop and len(text) + len(labels[end]) <= width:
            text, end = text + labels[end], end + 1
        words = [
            i for i in range(first + 1, end + 1) if i > len(begins) or begins[i - 1]
        ]
        end = words[-1] if words and end < len(pieces) else end
        text = "".join(labels[first:end]).strip() or shorten(labels[first], width)
        stretches[pieces[first].start] = text.removesuffix(BLANKS[" "])
    return stretches


def join_words(pieces: Sequence[Piece]) -> list[Piece]:
    """Join pieces to words, which begin behind blanks or with a wide letter.

    A blank that is a piece of its own goes to the word in front of it; what a tokenizer
    adds to a text stays alone.

    Args:
      pieces: the tokens as stretches of text.

    Examples:
      >>> pieces = [Piece(c, i, i + 1) for i, c in enumerate("we go")]
      >>> join_words(pieces)
      [Piece(text='we ', start=0, stop=3), Piece(text='go', start=3, stop=5)]
    """
    words = list(pieces[:1])
    for before, piece in pairwise(pieces):
        is_added = not (before.text and piece.text)
        if is_added or _begins_word(before, piece):
            words.append(piece)
        else:
            word = words.pop()
            words.append(Piece(word.text + piece.text, word.start, piece.stop))
    return words


def _begins_word(before: Piece, piece: Piece) -> bool:
    """Say whether a word begins with a piece: behind a blank, or in wide letters."""
    letter = piece.text.lstrip()[:1]
    if not letter:
        return False
    is_wide = unicodedata.east_asian_width(letter) in "WF"
    return is_wide or piece.text[0].isspace() or before.text[-1:].isspace()
