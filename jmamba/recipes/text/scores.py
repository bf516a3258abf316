"""Scores of explanations of sentences: faithfulness, and agreement with lexicons."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool

from jmamba.evaluation import (
    activation_scores,
    flipping_scores,
    insertion_scores,
    pruning_scores,
    replace_tokens,
)
from jmamba.models.mamba.model import MambaLM
from jmamba.recipes.text.lexicon import Agreement, Lexicon, agree
from jmamba.recipes.text.methods import Method, explain_all
from jmamba.recipes.text.sentences import PADDING, UNKNOWN, Encoded
from jmamba.recipes.text.sentiment import predict


def forget_words(encoded: Encoded, gone: Bool[np.ndarray, "b l"]) -> Encoded:
    """Return sentences in which some words have become the unknown word."""
    tokens = replace_tokens(encoded.tokens, gone, replacement=UNKNOWN)
    return encoded._replace(tokens=tokens)


def delete_words(encoded: Encoded, gone: Bool[np.ndarray, "b l"]) -> Encoded:
    """Return sentences without some of their words, which become shorter."""
    order = np.argsort(gone, axis=1, kind="stable")
    tokens = np.take_along_axis(np.where(gone, PADDING, encoded.tokens), order, axis=1)
    query = (encoded.query - gone.sum(axis=1)).astype(encoded.query.dtype)
    return encoded._replace(tokens=tokens, query=query)


def score_explanation(
    explanation: Method,
    model: MambaLM,
    encoded: Encoded,
    lexicons: Sequence[Lexicon],
) -> dict[str, Any]:
    """Explain sentences and score what comes out, as JSON can hold it.

    Words become unknown, but for insertion, where words come back into an empty
    sentence: with one replacement for both, insertion would be flipping once more.

    Returns:
      Of each sentence: "auac", "au_mse", "flipping", "insertion", and "agreement" with
      each lexicon; the mean curves; whether any relevance is below 0; and the relevance
      itself.
    """
    relevance = explain_all(explanation, model, encoded)
    options = {"present": encoded.present}
    ask = partial(predict, model)
    right = {"target": encoded.labels, **options}
    activation = activation_scores(ask, encoded, relevance, forget_words, **right)
    pruning = pruning_scores(ask, encoded, relevance, forget_words, **options)
    flipping = flipping_scores(ask, encoded, relevance, forget_words, **right)
    insertion = insertion_scores(ask, encoded, relevance, delete_words, **right)
    agreement = {
        lexicon.name: _agree(lexicon, encoded, relevance) for lexicon in lexicons
    }
    return {
        "auac": activation.area.tolist(),
        "au_mse": pruning.area.tolist(),
        "flipping": flipping.delta.tolist(),
        "insertion": insertion.delta.tolist(),
        "agreement": agreement,
        "activation": activation.scores.mean(axis=1).tolist(),
        "pruning": pruning.scores.mean(axis=1).tolist(),
        "signed": bool((relevance < 0).any()),
        "relevance": [
            [float(f"{value:.4g}") for value in row[:count]]
            for row, count in zip(relevance, encoded.query, strict=True)
        ],
    }


def _agree(lexicon, encoded, relevance) -> dict[str, list[float]]:
    found = [
        agree(lexicon, words, row[: len(words)], 1 if label else -1)
        for words, row, label in zip(
            encoded.words, relevance, encoded.labels, strict=True
        )
    ]
    columns = map(list, zip(*found, strict=True))
    return dict(zip(Agreement._fields, columns, strict=True))
