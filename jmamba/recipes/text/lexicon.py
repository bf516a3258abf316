"""Polarity of words, and whether explanations of a sentiment agree with it."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jmamba.evaluation import rank_correlation, ranking_auc
from jmamba.recipes.text.sentences import Rated, split_words

SHRINK = 5
"""Sentences of mean rating that every word is taken to have occurred in besides."""


class Lexicon(NamedTuple):
    """Words and how positive they are.

    Attributes:
      name: where it is from.
      scores: word -> polarity, below 0 for negative words.
      polar: words count as polar from this distance from 0 on.
    """

    name: str
    scores: dict[str, float]
    polar: float


class Agreement(NamedTuple):
    """How well a sentence's relevance agrees with a lexicon; nan where undefined.

    Attributes:
      area: chance that a polar word has a larger |relevance| than another word.
      sign: share of polar words whose relevance has the sign of their polarity.
      correlation: Spearman's, of signed relevance and polarity over known words.
    """

    area: float
    sign: float
    correlation: float


def read_lexicon(path: Path, name: str, *, polar: float = 0.0) -> Lexicon:
    """Read a lexicon from lines that begin with word, tab, polarity.

    Args:
      path: the file.
      name: of the lexicon.
      polar: as in `Lexicon`.

    Raises:
      ValueError: a line is not of that form.
    """
    scores = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            word, score = line.split("\t")[:2]
            scores[word] = float(score)
        except ValueError:
            raise ValueError(
                f"{path}, line {number}: {line[:40]!r} does not begin with word, tab "
                "and polarity."
            ) from None
    return Lexicon(name, scores, polar)


def derive_lexicon(rated: Sequence[Rated], *, min_count: int, polar: float) -> Lexicon:
    """Make a lexicon from the ratings of sentences.

        polarity(w) = sum over sentences with w of (rating - mean) / (count + SHRINK)

    Args:
      rated: sentences, none of which is to be explained.
      min_count: in how many of them a word must occur.
      polar: as in `Lexicon`.

    Examples:
      >>> rated = [Rated(2.0, "good film"), Rated(-2.0, "bad film")] * 5
      >>> derive_lexicon(rated, min_count=5, polar=0.5).scores
      {'bad': -1.0, 'film': 0.0, 'good': 1.0}
    """
    mean = float(np.mean([one.rating for one in rated]))
    found = defaultdict(list)
    for one in rated:
        for word in set(split_words(one.text)):
            found[word].append(one.rating - mean)
    scores = {
        word: sum(ratings) / (len(ratings) + SHRINK)
        for word, ratings in sorted(found.items())
        if len(ratings) >= min_count
    }
    return Lexicon("ratings of the training sentences", scores, polar)


def agree(
    lexicon: Lexicon, words: Sequence[str], relevance: Any, sign: int
) -> Agreement:
    """Compare the relevance of a sentence's words with their polarity.

    Args:
      lexicon: the polarities.
      words: of the sentence.
      relevance: of each word to the explained class.
      sign: 1 if that class is the positive one, -1 if it is the negative one.

    Raises:
      ValueError: there is not one relevance per word.

    Examples:
      >>> lexicon = Lexicon("toy", {"good": 2.0, "bad": -2.0, "film": 0.0}, 1.0)
      >>> found = agree(lexicon, ["a", "good", "film"], [0.1, 3.0, -0.2], 1)
      >>> found.area, found.sign, round(found.correlation, 6)
      (1.0, 1.0, 1.0)
    """
    heat = np.asarray(relevance, np.float64)
    if heat.shape != (len(words),):
        raise ValueError(
            f"{len(words)} words and relevance of shape {heat.shape}: give one number "
            "for each word."
        )
    polarity = np.array([lexicon.scores.get(word, 0.0) for word in words])
    known = np.array([word in lexicon.scores for word in words], bool)
    polar = np.abs(polarity) > lexicon.polar
    toward = sign * heat
    same = np.sign(toward[polar]) == np.sign(polarity[polar])
    return Agreement(
        ranking_auc(np.abs(heat), polar) if 0 < polar.sum() < polar.size else np.nan,
        float(same.mean()) if polar.any() else float("nan"),
        rank_correlation(toward[known], polarity[known]),
    )
