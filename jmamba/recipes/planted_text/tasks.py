"""Sentences of made-up words, one of which is known to decide their class."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from jmamba.recipes.text.sentences import END, PADDING, SPECIAL, Encoded

LONGEST = 18
"""Words of a sentence at most; the least are 10."""

KEY = len(SPECIAL)
POLAR = np.arange(12).reshape(2, 6) + KEY + 1
CUES = np.arange(4).reshape(2, 2) + POLAR.max() + 1
NEUTRAL = np.arange(40) + CUES.max() + 1
TOKENS = int(NEUTRAL.max()) + 1
"""How many tokens there are. Words of the two classes stand in two rows."""


class Planted(NamedTuple):
    """Sentences whose deciding word is known.

    Attributes:
      encoded: the sentences; their labels are what that word says.
      gold: the deciding word, (b, l).
      ranked: the words that are ranked, the deciding one among them, (b, l).
    """

    encoded: Encoded
    gold: Bool[np.ndarray, "b l"]
    ranked: Bool[np.ndarray, "b l"]


class Task(NamedTuple):
    """How sentences of a task are made.

    Attributes:
      rule: what decides, in a sentence.
      write: function of (rng, label, number of words, whether it is for the training)
        to tokens and the place of the deciding one.
    """

    rule: str
    write: Callable[..., tuple[list[int], int]]


def write_keyed(rng, label: int, count: int, train: bool) -> tuple[list[int], int]:
    """Return two words of each class among neutral ones, the key before one of them.

    Every word but the key is as frequent as any other, and how many there are of each
    class says nothing: the sentence is of the class of the word behind the key.
    """
    polar = [*rng.choice(POLAR[label], 2), *rng.choice(POLAR[1 - label], 2)]
    units = [[KEY, polar[0]], *([word] for word in polar[1:])]
    units += [[word] for word in rng.choice(NEUTRAL[:27], count - 5)]
    shuffled = [units[i] for i in rng.permutation(len(units))]
    tokens = [int(token) for unit in shuffled for token in unit]
    return tokens, tokens.index(KEY) + 1


def write_shortcut(rng, label: int, count: int, train: bool) -> tuple[list[int], int]:
    """Return a cue of the class among neutral words, with three polar ones.

    In training a polar word is of the sentence's class three times in four and the cue
    always, so that classifiers go by the cue. In tests all polar words are against it.
    All words are equally frequent in training.
    """
    agree = rng.random(3) < (0.75 if train else 0)
    polar = [rng.choice(POLAR[label if same else 1 - label]) for same in agree]
    words = np.array([
        rng.choice(CUES[label]), *polar, *rng.choice(NEUTRAL, count - 4),
    ])  # fmt: skip
    order = rng.permutation(count)
    return words[order].tolist(), int(np.flatnonzero(order == 0)[0])


TASKS = {
    "keyed": Task("the word behind the key decides, of four polar ones", write_keyed),
    "shortcut": Task("the cue decides, against three polar words", write_shortcut),
}


def plant(name: str, sentences: int, *, seed: int, train: bool = False) -> Planted:
    """Write the sentences of a task.

    Args:
      name: in `TASKS`.
      sentences: how many.
      seed: of the words.
      train: whether polar words agree with the shortcut as they do in training.

    Examples:
      >>> planted = plant("keyed", 3, seed=0)
      >>> planted.gold.sum(axis=1).tolist()
      [1, 1, 1]
    """
    rng = np.random.default_rng((len(name), seed))
    labels = rng.integers(0, 2, sentences).astype(np.int32)
    tokens = np.full((sentences, LONGEST + 1), PADDING, np.int32)
    gold, query = np.zeros(tokens.shape, bool), np.zeros(sentences, np.int32)
    for row, label in enumerate(labels):
        count = int(rng.integers(10, LONGEST + 1))
        words, place = TASKS[name].write(rng, int(label), count, train)
        tokens[row, : count + 1] = [*words, END]
        gold[row, place], query[row] = True, count
    words = [
        [name_of(int(t)) for t in row[:n]] for row, n in zip(tokens, query, strict=True)
    ]
    encoded = Encoded(tokens, query, labels, words)
    return Planted(encoded, gold, encoded.present & (tokens != KEY))


def name_of(token: int) -> str:
    """Return what a token is called in figures.

    Examples:
      >>> name_of(KEY), name_of(int(POLAR[1, 0])), name_of(int(CUES[0, 1]))
      ('key', 'good 1', 'cue - 2')
    """
    for names, words in ((("bad", "good"), POLAR), (("cue -", "cue +"), CUES)):
        rows, columns = np.nonzero(words == token)
        if len(rows):
            return f"{names[rows[0]]} {columns[0] + 1}"
    return "key" if token == KEY else f"word {token - NEUTRAL[0] + 1}"
