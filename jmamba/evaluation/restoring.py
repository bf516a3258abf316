"""Texts restored from nothing, and texts that lose what matters least."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jmamba.evaluation.faithfulness import make_score, predict_logits
from jmamba.evaluation.removal import STEPS, Fractions, RemovalCurve, removal_curve


def activation_scores(
    predict: Callable,
    inputs: Any,
    relevance: Any,
    replace: Callable,
    *,
    target: Any = None,
    fractions: Fractions = STEPS,
    present: Any = None,
) -> RemovalCurve:
    """Measure how soon a class becomes likely as its most relevant tokens come back.

    Starts from an input without any feature. The scores are p_c, the probability of
    the chosen class; their area is the AUAC, the higher the better.

    Args:
      predict: function of inputs to logits (b, v); v are the classes that compete for
        the probability, for example the answers of a question.
      inputs: whatever `replace` and `predict` take.
      relevance: of features, (b, f).
      replace: function of inputs and of the features that are gone, booleans (b, f), to
        inputs without these, such as `replace_tokens` with the unknown token's id.
      target: the class of each sample, usually the right one; None for the one that is
        predicted from the whole input.
      fractions: ascending shares of features that are back.
      present: which features there are, (b, f); None for all.

    Raises:
      ValueError: as in `flipping_scores`.

    Examples:
      >>> from functools import partial
      >>> from jmamba.evaluation import replace_tokens
      >>> def total(tokens):
      ...     return np.stack([0 * tokens[:, 0], tokens.sum(1)], axis=1).astype(float)
      >>> remove = partial(replace_tokens, replacement=0)
      >>> curve = activation_scores(
      ...     total, np.array([[0, 50]]), [[0.1, 0.9]], remove, fractions=(0, 0.5, 1)
      ... )
      >>> curve.scores[:, 0].round(3).tolist(), curve.area.tolist()
      ([0.5, 1.0, 1.0], [0.875])

    References:
      Ali, Zimerman & Wolf, ACL 2025, section 4 and table 3.
    """
    measure = make_score(predict, inputs, target, "probability")
    return removal_curve(
        measure,
        inputs,
        relevance,
        replace,
        start="empty",
        fractions=fractions,
        present=present,
    )


def pruning_scores(
    predict: Callable,
    inputs: Any,
    relevance: Any,
    replace: Callable,
    *,
    fractions: Fractions = STEPS,
    present: Any = None,
) -> RemovalCurve:
    """Measure how little logits move as the least relevant tokens are removed.

        score = mean over classes of (y_0 - y_m)^2

    for logits y_0 of the whole input and y_m of the pruned one, features going by
    |relevance|, the smallest first. The area is the AU-MSE, the lower the better.

    Args:
      predict, inputs, relevance, replace, fractions, present: as in
        `activation_scores`.

    Raises:
      ValueError: as in `flipping_scores`.

    Examples:
      >>> from functools import partial
      >>> from jmamba.evaluation import replace_tokens
      >>> remove = partial(replace_tokens, replacement=0)
      >>> def last(tokens):
      ...     return tokens[:, -1:].astype(float)
      >>> tokens, relevance = np.array([[4, 2]]), [[-0.3, 0.9]]
      >>> curve = pruning_scores(last, tokens, relevance, remove, fractions=(0, 0.5, 1))
      >>> curve.scores[:, 0].tolist(), curve.area.tolist()
      ([0.0, 0.0, 4.0], [1.0])

    References:
      Ali, Zimerman & Wolf, ACL 2025, section 4 and table 3.
    """
    whole = predict_logits(predict, inputs)

    def measure(inputs):
        return np.mean((whole - predict_logits(predict, inputs)) ** 2, axis=1)

    return removal_curve(
        measure,
        inputs,
        np.abs(np.asarray(relevance, np.float64)),
        replace,
        order="lerf",
        fractions=fractions,
        present=present,
    )
