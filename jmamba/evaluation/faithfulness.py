"""How a prediction changes as features leave it or come back by their relevance."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from jmamba.evaluation.removal import STEPS, Fractions, RemovalCurve, removal_curve

Score = Literal["logit", "probability"]


class FaithfulnessScores(NamedTuple):
    """Curves in both orders and what lies between them.

    Attributes:
      morf: most relevant features first.
      lerf: least relevant features first.
      delta: the difference of their areas for each sample, the higher the better.
    """

    morf: RemovalCurve
    lerf: RemovalCurve
    delta: Float[np.ndarray, "b"]


def flipping_scores(
    predict: Callable,
    inputs: Any,
    relevance: Any,
    replace: Callable,
    *,
    target: Any = None,
    score: Score = "logit",
    fractions: Fractions = STEPS,
    present: Any = None,
) -> FaithfulnessScores:
    """Measure how much more it takes to remove what is relevant than what is not.

        delta A^F = A_lerf - A_morf

    where A is the area under the logit of the chosen class while features are removed
    from the whole input.

    Args:
      predict: function of inputs to logits (b, v).
      inputs: whatever `replace` and `predict` take.
      relevance: of features, (b, f): tokens, words or patches.
      replace: function of inputs and of the features that are gone, booleans (b, f), to
        inputs without these: `replace_tokens` or `replace_patches` with their options
        filled in.
      target: the class of each sample whose score is followed; None for the one that
        is predicted from the whole input.
      score: "logit" of the class, or its "probability".
      fractions: ascending shares of features, of which whole features are taken.
      present: which features there are, (b, f), where samples have different numbers
        of them; None for all.

    Raises:
      ValueError: shapes do not fit together, relevance or logits are not finite, a
        target is out of range, or an option is unknown.

    Examples:
      >>> from functools import partial
      >>> from jmamba.evaluation import replace_tokens
      >>> def total(tokens):  # class 1 counts on the sum of the tokens
      ...     return np.stack([0 * tokens[:, 0], tokens.sum(1)], axis=1).astype(float)
      >>> tokens = np.array([[5, 0, 1, 2]])
      >>> remove = partial(replace_tokens, replacement=0)
      >>> steps = (0, 0.25, 0.5, 0.75, 1)
      >>> scores = flipping_scores(total, tokens, tokens, remove, fractions=steps)
      >>> scores.morf.scores[:, 0].tolist(), scores.lerf.scores[:, 0].tolist()
      ([8.0, 3.0, 1.0, 0.0, 0.0], [8.0, 8.0, 7.0, 5.0, 0.0])
      >>> scores.delta.tolist()
      [4.0]

    References:
      Jafari et al., "MambaLRP", arXiv 2406.07592. That their areas differ by
      more than 1 says that scores are logits; how they scale the abscissa is not said.
    """
    options = target, score, fractions, present
    return _both_orders(predict, inputs, relevance, replace, "whole", *options)


def insertion_scores(
    predict: Callable,
    inputs: Any,
    relevance: Any,
    replace: Callable,
    *,
    target: Any = None,
    score: Score = "logit",
    fractions: Fractions = STEPS,
    present: Any = None,
) -> FaithfulnessScores:
    """Measure how much sooner relevant features than others bring a logit back.

        delta A^I = A_morf - A_lerf

    where A is the area under the logit of the chosen class while features are put back
    into an input without any. Steps of single features make this the same number as
    `flipping_scores` where both have the same replacement: what was put back first is
    what is removed last. It says something new with another one, such as the mean
    colour for black.

    Args:
      predict, inputs, relevance, replace, target, score, fractions, present: as in
        `flipping_scores`.

    Raises:
      ValueError: as in `flipping_scores`.

    References:
      Jafari et al., "MambaLRP", arXiv 2406.07592.
    """
    options = target, score, fractions, present
    return _both_orders(predict, inputs, relevance, replace, "empty", *options)


def _both_orders(
    predict, inputs, relevance, replace, start, target, score, fractions, present
) -> FaithfulnessScores:
    measure = make_score(predict, inputs, target, score)
    options: dict[str, Any] = {
        "start": start,
        "fractions": fractions,
        "present": present,
    }
    morf, lerf = (
        removal_curve(measure, inputs, relevance, replace, order=order, **options)
        for order in ("morf", "lerf")
    )
    delta = lerf.area - morf.area
    return FaithfulnessScores(morf, lerf, delta if start == "whole" else -delta)


def make_score(predict: Callable, inputs: Any, target: Any, score: Score) -> Callable:
    """Return a function of inputs to the score of each sample's class.

    Args:
      predict, inputs, target, score: as in `flipping_scores`.

    Raises:
      ValueError: the score is unknown, logits are not (b, v), or a target is out of
        range.
    """
    if score not in ("logit", "probability"):
        raise ValueError(f"score={score!r}: give 'logit' or 'probability'.")
    logits = predict_logits(predict, inputs)
    batch, classes = logits.shape
    chosen = logits.argmax(axis=1) if target is None else np.asarray(target)
    if chosen.dtype.kind not in "iu" or chosen.shape not in ((), (batch,)):
        raise ValueError(
            f"target={target!r}: give one integer, or one for each of {batch} samples."
        )
    if chosen.min() < 0 or chosen.max() >= classes:
        raise ValueError(f"target={target!r} is out of range: give 0 to {classes - 1}.")
    place = np.broadcast_to(chosen, (batch,))[:, None]

    def measure(inputs):
        values = predict_logits(predict, inputs)
        if score == "probability":
            values = values - values.max(axis=1, keepdims=True)
            values = np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)
        return np.take_along_axis(values, place, axis=1)[:, 0]

    return measure


def predict_logits(predict: Callable, inputs: Any) -> Float[np.ndarray, "b v"]:
    """Return what `predict` says of inputs, in float64.

    Raises:
      ValueError: it is not (b, v), or not finite.
    """
    logits = np.asarray(predict(inputs), np.float64)
    if logits.ndim != 2:
        raise ValueError(
            f"predict returned an array of shape {logits.shape}, but must return "
            "logits (batch, classes): of a language model those of one token, "
            "lambda tokens: model(tokens).logits[:, -1]."
        )
    if not np.isfinite(logits).all():
        raise ValueError("predict returned logits that are not finite.")
    return logits
