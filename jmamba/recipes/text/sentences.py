"""Sentences with ratings as texts that a language model ends with a class."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

UNKNOWN, PADDING, END, NEGATIVE, POSITIVE = range(5)
SPECIAL = ("<unk>", "<pad>", "<end>", "<negative>", "<positive>")
"""What the first tokens are; words follow."""

LABELS = (NEGATIVE, POSITIVE)
"""The token of each class."""

_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*|[^\w\s]")


class Rated(NamedTuple):
    """A sentence and its mean rating, below 0 for a negative one."""

    rating: float
    text: str


class Split(NamedTuple):
    """Sentences for training, for choices and for results."""

    train: list[Rated]
    validation: list[Rated]
    test: list[Rated]


class Encoded(NamedTuple):
    """Sentences as tokens: words, the end, and padding up to a common length.

    Under jit all but the words are arrays of jax.

    Attributes:
      tokens: ids, (b, l).
      query: place of the end, where the class is read, (b).
      labels: 0 for negative, 1 for positive, (b).
      words: what was read, without the end.
    """

    tokens: Any
    query: Any
    labels: Any
    words: list[list[str]]

    @property
    def present(self) -> Any:
        """Which tokens are words, (b, l)."""
        return np.arange(self.tokens.shape[1])[None] < self.query[:, None]

    def take(self, which: np.ndarray | slice) -> "Encoded":
        """Return some of the sentences."""
        chosen = np.arange(len(self.labels))[which]
        return Encoded(
            self.tokens[chosen],
            self.query[chosen],
            self.labels[chosen],
            [self.words[i] for i in chosen],
        )

    def take_short(self, most: int, count: int) -> "Encoded":
        """Return the first sentences of at most so many words, in arrays as long."""
        which = np.flatnonzero(self.query <= most)[:count]
        found = self.take(which)
        return found._replace(tokens=found.tokens[:, : most + 1])


def read_rated(path: Path, *, threshold: float) -> list[Rated]:
    """Read sentences from lines of number, rating and text, tabs between them.

    Args:
      path: the file.
      threshold: sentences whose rating is less than that from 0 are left out.

    Raises:
      ValueError: a line is not of that form, or no sentence is left.
    """
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            _, rating, text = line.split("\t")
            one = Rated(float(rating), text)
        except ValueError:
            raise ValueError(
                f"{path}, line {number}: {line[:40]!r} is not number, rating and text "
                "with tabs between them."
            ) from None
        if abs(one.rating) >= threshold:
            found.append(one)
    if not found:
        raise ValueError(
            f"{path} has no sentence rated {threshold} or more from 0; give a smaller "
            "threshold."
        )
    return found


def split_rated(rated: Sequence[Rated]) -> Split:
    """Split sentences 80 : 10 : 10, always in the same way."""
    order = np.random.default_rng(1).permutation(len(rated))
    shuffled = [rated[i] for i in order]
    first, second = (len(rated) * part // 10 for part in (8, 9))
    return Split(shuffled[:first], shuffled[first:second], shuffled[second:])


def split_words(text: str) -> list[str]:
    """Return the words and signs of a text in lower case.

    Examples:
      >>> split_words("It's a well-made film, isn't it?")
      ["it's", 'a', 'well-made', 'film', ',', "isn't", 'it', '?']
    """
    return _WORD.findall(text.lower())


class Vocabulary:
    """Tokens of words.

    Args:
      texts: texts whose words are known.
      min_count: how often a word must occur in them.

    Examples:
      >>> vocabulary = Vocabulary(["a good film", "a bad film"], min_count=2)
      >>> vocabulary.words
      ['a', 'film']
      >>> encoded = vocabulary.encode([Rated(1.5, "a good one")], length=6)
      >>> encoded.tokens.tolist(), encoded.query.tolist(), encoded.labels.tolist()
      ([[5, 0, 0, 2, 1, 1]], [3], [1])
    """

    def __init__(self, texts: Iterable[str], *, min_count: int):
        counts = Counter(word for text in texts for word in split_words(text))
        self.words = sorted(w for w, count in counts.items() if count >= min_count)
        self.ids = {word: i for i, word in enumerate(self.words, len(SPECIAL))}

    def __len__(self) -> int:
        """Return how many tokens there are, the special ones included."""
        return len(SPECIAL) + len(self.words)

    def encode(self, rated: Sequence[Rated], *, length: int) -> Encoded:
        """Return sentences as tokens; what does not fit into the length is cut off."""
        words = [split_words(one.text)[: length - 1] for one in rated]
        tokens = np.full((len(rated), length), PADDING, np.int32)
        for row, sentence in zip(tokens, words, strict=True):
            row[: len(sentence)] = [self.ids.get(word, UNKNOWN) for word in sentence]
            row[len(sentence)] = END
        query = np.array([len(sentence) for sentence in words], np.int32)
        labels = np.array([one.rating > 0 for one in rated], np.int32)
        return Encoded(tokens, query, labels, words)


def drop_words(encoded: Encoded, rng: np.random.Generator, most: float) -> Encoded:
    """Return sentences of which a random share of words, up to `most`, is unknown."""
    shape = encoded.tokens.shape
    share = rng.uniform(0, most, (shape[0], 1))
    gone = encoded.present & (rng.uniform(size=shape) < share)
    return encoded._replace(tokens=np.where(gone, UNKNOWN, encoded.tokens))
