"""Removing features by their relevance, and following a score meanwhile."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

STEPS = tuple(step / 10 for step in range(11))
"""Shares of features that are removed, or are there again, step after step."""

Fractions = Sequence[float | int] | np.ndarray
RemovalOrder = Literal["morf", "lerf"]
Start = Literal["whole", "empty"]


class RemovalCurve(NamedTuple):
    """What became of a score, step after step.

    Attributes:
      fractions: shares of features removed, or put back.
      scores: at each step, of each sample.
      area: under the scores of each sample by trapezoids, over the distance between
        the first and the last fraction.
    """

    fractions: Float[np.ndarray, "p"]
    scores: Float[np.ndarray, "p b"]
    area: Float[np.ndarray, "b"]


def removal_curve(
    measure: Callable,
    inputs: Any,
    relevance: Any,
    replace: Callable,
    *,
    order: RemovalOrder = "morf",
    start: Start = "whole",
    fractions: Fractions = STEPS,
    present: Any = None,
) -> RemovalCurve:
    """Follow a score while features are removed, or put back, by their relevance.

    Args:
      measure: function of inputs to one number for each sample.
      inputs, relevance, replace, fractions, present: as in `flipping_scores`.
      order: "morf", most relevant first, or "lerf", least relevant first.
      start: "whole" to remove features, "empty" to put them back.

    Raises:
      ValueError: as in `flipping_scores`.
    """
    masks = removal_masks(
        relevance, order=order, start=start, fractions=fractions, present=present
    )
    scores = [np.asarray(measure(replace(inputs, gone)), float) for gone in masks]
    curve, places = np.stack(scores), np.asarray(fractions, float)
    area = np.trapezoid(curve, places, axis=0) / (places[-1] - places[0])
    return RemovalCurve(places, curve, area)


def removal_masks(
    relevance: Any,
    *,
    order: RemovalOrder = "morf",
    start: Start = "whole",
    fractions: Fractions = STEPS,
    present: Any = None,
) -> Iterator[Bool[np.ndarray, "b f"]]:
    """Return which features are gone at each step.

    Of equal features the first goes first in "morf" and last in "lerf", which is the
    same ranking from its other end.

    Args:
      relevance, order, start, fractions, present: as in `removal_curve`.

    Raises:
      ValueError: shapes differ, relevance is not finite, or an option is unknown.

    Examples:
      >>> masks = removal_masks([[0.1, 0.9]], fractions=(0, 0.5, 1))
      >>> [mask[0].tolist() for mask in masks]
      [[False, False], [False, True], [True, True]]
    """
    if order not in ("morf", "lerf") or start not in ("whole", "empty"):
        raise ValueError(
            f"order={order!r}, start={start!r}: give 'morf' or 'lerf', and 'whole' or "
            "'empty'."
        )
    ranks, there = _rank(relevance, present)
    counts = there.sum(axis=1, keepdims=True)
    ranks = ranks if order == "morf" else counts - 1 - ranks
    places = np.asarray(fractions, float)
    falls = places.ndim != 1 or places.size < 2 or (np.diff(places) <= 0).any()
    if falls or not 0 <= places[0] < places[-1] <= 1:
        raise ValueError(
            f"fractions={list(fractions)}: give at least two shares from 0 to 1, in "
            "ascending order."
        )

    def gone(fraction):
        reached = ranks < (fraction * counts + 1e-9).astype(int)
        return there & (reached if start == "whole" else ~reached)

    return map(gone, places)


def _rank(relevance, present) -> tuple[Int[np.ndarray, "b f"], Bool[np.ndarray, "b f"]]:
    """Return each feature's place, the most relevant first, those not there last."""
    heat = np.asarray(relevance, np.float64)
    there = np.ones(heat.shape, bool) if present is None else np.asarray(present, bool)
    if heat.ndim != 2 or there.shape != heat.shape:
        raise ValueError(
            "relevance and present must be (batch, features), but are "
            f"{heat.shape} and {there.shape}."
        )
    if not there.any(axis=1).all():
        raise ValueError(
            f"samples {np.flatnonzero(~there.any(axis=1)).tolist()} have no feature to "
            "remove; leave them out."
        )
    if not np.isfinite(heat[there]).all():
        raise ValueError("relevance is not finite; explain with finite values.")
    order = np.argsort(np.where(there, -heat, np.inf), axis=1, kind="stable")
    return np.argsort(order, axis=1), there
