"""Relevance as a search: are the tokens that matter ranked first?"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import mannwhitneyu

from jmamba.evaluation.segmentation import average_precision


class RetrievalScores(NamedTuple):
    """How well each row ranks the tokens that it was made from, from 0 to 1.

    Attributes:
      auc: chance that such a token is above another one, ties counting half.
      precision: average precision.
      recall: share of such tokens among the first k.
    """

    auc: Float[np.ndarray, "rows"]
    precision: Float[np.ndarray, "rows"]
    recall: Float[np.ndarray, "rows"]


def retrieval_scores(
    relevance: Any, gold: Any, *, k: int | None = None, seen: Any = None
) -> RetrievalScores:
    """Rank the sources of each target by relevance and compare with the true ones.

    In a copy task the one true source of a target is the token that it copies. Targets
    without a true source, or without another one, are left out; the scores of a data
    set are means over the rows that remain.

    Args:
      relevance: of sources for targets, (..., target, source).
      gold: which sources are the true ones, of the same shape.
      k: how many of the first sources are searched; None for as many as there are true
        ones.
      seen: which sources take part, true ones too, of the same shape; None for all.
        In a causal model those behind the target are 0, and easy to rank.

    Raises:
      ValueError: shapes differ, relevance is not finite, k is not positive, or no row
        has anything to rank.

    Examples:
      >>> scores = retrieval_scores([[0.1, 0.7, 0.3, 0.2]], [[0, 0, 1, 0]])
      >>> [round(float(score[0]), 3) for score in scores]
      [0.667, 0.5, 0.0]

    References:
      Pitorro & Treviso, "LaTIM", arXiv 2502.15612, for the copy task.
    """
    heat, truth = np.asarray(relevance, np.float64), np.asarray(gold, bool)
    taken = np.ones(heat.shape, bool) if seen is None else np.asarray(seen, bool)
    if heat.ndim < 2 or not heat.shape == truth.shape == taken.shape:
        raise ValueError(
            "relevance, gold and seen must all be (..., target, source), but are "
            f"{heat.shape}, {truth.shape} and {taken.shape}."
        )
    if not np.isfinite(heat[taken]).all():
        raise ValueError("relevance is not finite; explain with finite values.")
    if k is not None and k < 1:
        raise ValueError(f"k={k}: give at least 1.")
    width = heat.shape[-1]
    rows = (x.reshape(-1, width) for x in (heat, truth, taken))
    scores = [
        _score_row(values[used], wanted[used], k)
        for values, wanted, used in zip(*rows, strict=True)
        if wanted[used].any() and not wanted[used].all()
    ]
    if not scores:
        raise ValueError(
            "No target has both a true source and another one; give gold with some."
        )
    return RetrievalScores(*np.array(scores).T)


def _score_row(values, wanted, k) -> tuple[float, float, float]:
    return (
        ranking_auc(values, wanted),
        average_precision(values, wanted),
        recall_at(values, wanted, int(wanted.sum()) if k is None else k),
    )


def ranking_auc(scores: Any, labels: Any) -> float:
    """Return the area under the ROC curve of a ranking.

        AUC = P(positive above negative) + P(positive level with negative) / 2

    Args:
      scores: the higher, the more likely positive.
      labels: true or 1 where positive.

    Raises:
      ValueError: lengths differ, or all labels are the same.

    Examples:
      >>> ranking_auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
      0.75
    """
    values, positive = np.ravel(scores), np.ravel(labels).astype(bool)
    if values.shape != positive.shape or positive.all() or not positive.any():
        raise ValueError(
            "ranking_auc needs scores and labels of one length, some positive and some "
            f"not, but got {values.size} scores and {positive.size} labels, "
            f"{positive.sum()} of them positive."
        )
    found = mannwhitneyu(values[positive], values[~positive], method="asymptotic")
    return float(found.statistic / (positive.sum() * (~positive).sum()))


def recall_at(scores: Any, labels: Any, k: int) -> float:
    """Return the share of positives among the k highest scores.

    Where scores are level at the k-th place, all orders of them are averaged over, so
    that a constant ranking has no luck.

    Args:
      scores: the higher, the more likely positive.
      labels: true or 1 where positive.
      k: how many are taken.

    Raises:
      ValueError: lengths differ, nothing is positive, or k is not positive.

    Examples:
      >>> recall_at([0.9, 0.5, 0.5, 0.1], [0, 1, 0, 1], 2)  # 1/2 of one of two
      0.25
    """
    values, positive = np.ravel(scores), np.ravel(labels).astype(bool)
    if values.shape != positive.shape or not positive.any() or k < 1:
        raise ValueError(
            "recall_at needs scores and labels of one length with at least one "
            f"positive, and k of at least 1, but got {values.size} scores, "
            f"{positive.size} labels, {positive.sum()} of them positive, and k={k}."
        )
    if k >= values.size:
        return 1.0
    limit = np.sort(values)[-k]
    above, level = values > limit, values == limit
    chance = (k - above.sum()) / level.sum()
    hits = (above & positive).sum() + chance * (level & positive).sum()
    return float(hits / positive.sum())
