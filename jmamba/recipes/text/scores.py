"""Scores of explanations of sentences: faithfulness, and agreement with lexicons."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from jmamba.evaluation import activation_scores, flipping_scores, pruning_scores
from jmamba.models.mamba.model import MambaLM
from jmamba.recipes.text.lexicon import Agreement, Lexicon, agree
from jmamba.recipes.text.operators import OPERATORS
from jmamba.recipes.text.readings import READINGS
from jmamba.recipes.text.sentences import Encoded
from jmamba.recipes.text.sentiment import predict

Relevance = Float[np.ndarray, "b l"]


def read_in_all_ways(relevance: Relevance) -> dict[str, Relevance]:
    """Return the readings of relevance that rank words unlike the one with signs.

    Examples:
      >>> list(read_in_all_ways(np.array([[0.5, 0.0]])))
      ['signed']
    """
    if (relevance >= 0).all():
        return {"signed": relevance}
    return {name: read(relevance) for name, read in READINGS.items()}


def flip_words(
    model: MambaLM, encoded: Encoded, ranks: Relevance
) -> dict[str, list[float]]:
    """Return delta A^F of each sentence for each way of taking words out."""
    found = {}
    for name, remove in OPERATORS.items():
        flipping = flipping_scores(
            partial(predict, model),
            encoded,
            ranks,
            remove,
            target=encoded.labels,
            present=encoded.present,
        )
        found[name] = flipping.delta.tolist()
    return found


def score_ranks(model: MambaLM, encoded: Encoded, ranks: Relevance) -> dict[str, Any]:
    """Score one reading of relevance, as JSON can hold it.

    Returns:
      "flipping", "auac" and "au_mse": way of taking words out -> number of each
      sentence; "activation" and "pruning": the same -> mean curve.
    """
    found: dict[str, Any] = {"flipping": flip_words(model, encoded, ranks)}
    ask, present = partial(predict, model), {"present": encoded.present}
    for name, remove in OPERATORS.items():
        activation = activation_scores(
            ask, encoded, ranks, remove, target=encoded.labels, **present
        )
        pruning = pruning_scores(ask, encoded, ranks, remove, **present)
        for metric, curve, scores in (
            ("auac", "activation", activation),
            ("au_mse", "pruning", pruning),
        ):
            found.setdefault(metric, {})[name] = scores.area.tolist()
            found.setdefault(curve, {})[name] = scores.scores.mean(axis=1).tolist()
    return found


def agree_with(
    lexicons: Sequence[Lexicon], encoded: Encoded, relevance: Relevance
) -> Mapping[str, dict[str, list[float]]]:
    """Return how well relevance agrees with each lexicon, in each sentence."""
    found = {}
    for lexicon in lexicons:
        each = [
            agree(lexicon, words, row[: len(words)], 1 if label else -1)
            for words, row, label in zip(
                encoded.words, relevance, encoded.labels, strict=True
            )
        ]
        columns = map(list, zip(*each, strict=True))
        found[lexicon.name] = dict(zip(Agreement._fields, columns, strict=True))
    return found
