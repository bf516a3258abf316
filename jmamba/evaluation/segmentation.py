"""Saliency as a segmentation of the object: pixel accuracy, mIoU and mAP."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

UNLABELLED = -1
"""Mask value of pixels that count nowhere."""


class SegmentationCounts(NamedTuple):
    """What single images add to the scores of a data set.

    Attributes:
      correct: pixels that are where the mask says.
      labelled: pixels that the mask says something about.
      intersection: of prediction and mask, for background and foreground.
      union: of prediction and mask, for background and foreground.
      precision: average precision of each image.
    """

    correct: Int[np.ndarray, "b"]
    labelled: Int[np.ndarray, "b"]
    intersection: Int[np.ndarray, "b 2"]
    union: Int[np.ndarray, "b 2"]
    precision: Float[np.ndarray, "b"]


class SegmentationScores(NamedTuple):
    """Scores of a data set, each from 0 to 1."""

    pixel_accuracy: float
    mean_average_precision: float
    mean_iou: float


def count_segmentation(
    saliency: Any, masks: Any, *, min_max: bool = True
) -> SegmentationCounts:
    """Compare saliency maps with the masks of their objects.

    A pixel is foreground if its saliency is above the mean of its image. For the
    average precision every pixel has two scores, 1 - saliency for background and
    saliency for foreground, and all of them are ranked together.

    Args:
      saliency: (b, height, width), finite.
      masks: 1 for the object, 0 for the rest, -1 for pixels that do not count; of the
        same shape.
      min_max: whether saliency is scaled to [0, 1] for the average precision, a
        constant map becoming 0. Without it the scale of the saliency decides how both
        kinds of scores rank among each other.

    Raises:
      ValueError: shapes differ, a map is not finite, masks hold another number, or a
        mask labels nothing.

    Examples:
      >>> counts = count_segmentation([[[0.9, 0.1], [0.2, 0.8]]], [[[1, 0], [1, 1]]])
      >>> counts.correct.tolist(), counts.intersection.tolist(), counts.union.tolist()
      ([3], [[1, 2]], [[2, 3]])

    References:
      Chefer, Gur & Wolf, "Transformer interpretability beyond attention visualization",
      CVPR 2021, section 4, whose definitions Ali, Zimerman & Wolf (ACL 2025) follow.
    """
    heat, truth = _check(saliency, masks)
    labelled = truth != UNLABELLED
    mean = heat.mean(axis=(1, 2), keepdims=True)
    found = (heat > mean).astype(int)
    pairs = [(labelled & (found == k), truth == k) for k in (0, 1)]
    scores = _scale(heat) if min_max else heat
    return SegmentationCounts(
        correct=(labelled & (found == truth)).sum((1, 2)),
        labelled=labelled.sum((1, 2)),
        intersection=np.stack([(p & t).sum((1, 2)) for p, t in pairs], axis=1),
        union=np.stack([(p | t).sum((1, 2)) for p, t in pairs], axis=1),
        precision=np.array([
            _image_precision(*image) for image in zip(scores, truth, strict=True)
        ]),
    )  # fmt: skip


def segmentation_scores(counts: Iterable[SegmentationCounts]) -> SegmentationScores:
    """Return the scores of a data set from the counts of its images.

        pixel accuracy = sum correct / sum labelled
        mIoU = mean over background and foreground of sum intersection / sum union
        mAP = mean over images of the average precision

    Sums run over the data set before dividing. A class that is nowhere has an IoU of 0.

    Args:
      counts: what `count_segmentation` returned, batch after batch.

    Raises:
      ValueError: there are no counts.

    Examples:
      >>> counts = count_segmentation([[[0.9, 0.1], [0.2, 0.8]]], [[[1, 0], [1, 1]]])
      >>> scores = segmentation_scores([counts])
      >>> scores.pixel_accuracy, round(scores.mean_iou, 3)  # (1/2 + 2/3) / 2
      (0.75, 0.583)
    """
    batches = list(counts)
    if not batches:
        raise ValueError("There are no counts; give those of at least one batch.")
    whole = SegmentationCounts(*map(np.concatenate, zip(*batches, strict=True)))
    union = whole.union.sum(0)
    iou = whole.intersection.sum(0) / np.maximum(union, 1)
    return SegmentationScores(
        pixel_accuracy=float(whole.correct.sum() / whole.labelled.sum()),
        mean_average_precision=float(whole.precision.mean()),
        mean_iou=float(iou.mean()),
    )


def average_precision(scores: Any, labels: Any) -> float:
    """Return the average precision of a ranking.

        AP = sum_n (recall[n] - recall[n-1]) precision[n]

    over the distinct scores from the highest on; equal scores come together.

    Args:
      scores: the higher, the more likely positive.
      labels: true or 1 where positive.

    Raises:
      ValueError: lengths differ, or nothing is positive.

    Examples:
      >>> average_precision([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])  # (1 + 2/3) / 2
      0.8333333333333333
    """
    values, positive = np.ravel(scores), np.ravel(labels).astype(bool)
    if values.shape != positive.shape or not positive.any():
        raise ValueError(
            "average_precision needs scores and labels of one length with at least one "
            f"positive, but got {values.size} scores and {positive.size} labels, "
            f"{positive.sum()} of them positive."
        )
    order = np.argsort(-values, kind="stable")
    values, positive = values[order], positive[order]
    last = np.append(np.diff(values) != 0, True)  # of those that are equal
    hits = np.cumsum(positive)[last]
    precision = hits / (np.flatnonzero(last) + 1)
    recall = hits / positive.sum()
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def _image_precision(heat, truth) -> float:
    counts = truth != UNLABELLED
    heat, truth = heat[counts], truth[counts]
    scores = np.concatenate([1 - heat, heat])
    return average_precision(scores, np.concatenate([truth == 0, truth == 1]))


def _scale(heat):
    low = heat.min(axis=(1, 2), keepdims=True)
    extent = heat.max(axis=(1, 2), keepdims=True) - low
    return (heat - low) / np.where(extent > 0, extent, 1)


def _check(saliency, masks):
    heat, truth = np.asarray(saliency, np.float64), np.asarray(masks)
    if heat.ndim != 3 or heat.shape != truth.shape or 0 in heat.shape:
        raise ValueError(
            f"saliency and masks must both be (batch, height, width), but are "
            f"{heat.shape} and {truth.shape}; resize masks with nearest neighbours."
        )
    truth = truth.astype(int)
    known = np.isin(truth, (UNLABELLED, 0, 1))
    if not known.all() or not np.array_equal(truth, masks):
        raise ValueError(
            "masks must hold 1 for the object, 0 for the rest and -1 for pixels that "
            f"do not count, but hold {np.unique(np.asarray(masks))[:8].tolist()}."
        )
    if not np.isfinite(heat).all():
        raise ValueError("saliency is not finite; explain with finite values.")
    empty = np.flatnonzero((truth == UNLABELLED).all((1, 2)))
    if empty.size:
        raise ValueError(f"masks {empty.tolist()} label no pixel; leave them out.")
    return heat, truth
