"""Rankings of words that no model is asked for: what an explanation has to beat."""

from collections.abc import Callable
from functools import partial

import numpy as np

from jmamba.recipes.text.sentences import Encoded

SHRINK = 5
"""Sentences of both classes that every word is taken to have occurred in besides."""

MODEL_FREE = (
    "random",
    "first words",
    "last words",
    "rare words",
    "common words",
    "polarity of words",
)


def model_free(train: Encoded, tokens: int, seed: int) -> dict[str, Callable]:
    """Return rankings that look at words, places and labels alone.

        polarity(w) = sum over sentences with w of (label - mean) / (count + SHRINK)

    The polarity is signed toward the class that is explained: a bag of words, read off
    the training sentences.

    Args:
      train: the sentences that words are counted in.
      tokens: how many different ones there are.
      seed: of the random ranking.

    Returns:
      Name in `MODEL_FREE` -> function of a model, which is left alone, and sentences
      to scores, (b, l).
    """
    rng = np.random.default_rng(seed)
    counts = np.bincount(train.tokens[train.present], minlength=tokens)
    found = {
        "random": lambda encoded: rng.normal(size=encoded.tokens.shape),
        "first words": lambda encoded: -_places(encoded),
        "last words": _places,
        "rare words": lambda encoded: -counts[encoded.tokens].astype(float),
        "common words": lambda encoded: counts[encoded.tokens].astype(float),
        "polarity of words": partial(_toward, word_polarity(train, tokens)),
    }
    return {name: partial(_ignore_model, found[name]) for name in MODEL_FREE}


def word_polarity(train: Encoded, tokens: int) -> np.ndarray:
    """Return by how much the sentences with a token are of one class, (tokens,)."""
    has = np.zeros((len(train.labels), tokens), bool)
    rows = np.arange(len(has))[:, None]
    has[rows, np.where(train.present, train.tokens, train.tokens[:, :1])] = True
    signs = 2.0 * train.labels - 1
    return (signs - signs.mean()) @ has / (has.sum(axis=0) + SHRINK)


def _places(encoded: Encoded) -> np.ndarray:
    return np.broadcast_to(np.arange(encoded.tokens.shape[1], dtype=float),
                           encoded.tokens.shape)  # fmt: skip


def _toward(polarity: np.ndarray, encoded: Encoded) -> np.ndarray:
    return (2 * encoded.labels - 1)[:, None] * polarity[encoded.tokens]


def _ignore_model(rank, model, encoded: Encoded) -> np.ndarray:
    return rank(encoded)
