import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jmamba.evaluation import (
    average_precision,
    count_segmentation,
    segmentation_scores,
)


def precision_loop(scores, labels) -> float:
    """Average precision by its definition: every threshold counts all scores anew."""
    scores, labels = np.ravel(scores), np.ravel(labels)
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= threshold
        hits = labels[chosen].sum()
        total += (hits / labels.sum() - recall) * hits / chosen.sum()
        recall = hits / labels.sum()
    return total


def test_segmentation_by_hand():
    """Two images of four pixels, worked out on paper."""
    saliency = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.0, 0.0], [0.0, 4.0]]])
    masks = np.array([[[1, 0], [1, 1]], [[0, 1], [-1, 1]]])
    # means 0.5 and 1: foreground (1 0 / 0 1) and (0 0 / 0 1)
    counts = count_segmentation(saliency, masks)
    assert counts.correct.tolist() == [3, 2]
    assert counts.labelled.tolist() == [4, 3]
    assert counts.intersection.tolist() == [[1, 2], [1, 1]]
    assert counts.union.tolist() == [[2, 3], [2, 2]]
    scores = segmentation_scores([counts])
    assert scores.pixel_accuracy == 5 / 7
    assert scores.mean_iou == pytest.approx(((2 / 4) + (3 / 5)) / 2)
    # the second, scaled to 0 0 . 1: scores 1 1 0 for background, 0 0 1 for foreground;
    # of the three at 1 two are right, of the three at 0 one: AP = 2/3 2/3 + 1/3 3/6
    assert counts.precision[1] == pytest.approx(4 / 9 + 1 / 6)


def test_batches_add_up():
    draw = np.random.default_rng(0)
    saliency, masks = draw.random((5, 3, 4)), draw.integers(-1, 2, (5, 3, 4))
    whole = segmentation_scores([count_segmentation(saliency, masks)])
    parts = [
        count_segmentation(saliency[i : i + 2], masks[i : i + 2]) for i in (0, 2, 4)
    ]
    assert segmentation_scores(parts) == pytest.approx(whole)


def test_min_max_matters_to_precision_only():
    draw = np.random.default_rng(1)
    saliency, masks = 0.3 * draw.random((3, 4, 4)), draw.integers(0, 2, (3, 4, 4))
    scaled = segmentation_scores([count_segmentation(saliency, masks)])
    plain = segmentation_scores([count_segmentation(saliency, masks, min_max=False)])
    assert scaled[::2] == plain[::2]
    assert abs(scaled.mean_average_precision - plain.mean_average_precision) > 0.01


def test_constant_maps_stay_finite():
    counts = count_segmentation(np.ones((1, 2, 2)), [[[0, 1], [1, 1]]])
    assert counts.correct.tolist() == [1]  # nothing is above the mean
    assert np.isfinite(counts.precision).all()
    only = count_segmentation(np.ones((1, 2, 2)), np.zeros((1, 2, 2), int))
    assert segmentation_scores([only]).mean_iou == 0.5  # no foreground anywhere


@hypothesis.given(
    labels=st.lists(st.booleans(), min_size=1, max_size=20), seed=st.integers(0, 999)
)
def test_average_precision_equals_its_definition(labels, seed):
    labels = np.array([True, *labels])
    scores = np.random.default_rng(seed).integers(0, 6, labels.size) / 5  # with ties
    assert average_precision(scores, labels) == pytest.approx(
        precision_loop(scores, labels.astype(float)), abs=1e-12
    )


def test_segmentation_messages():
    good, mask = np.ones((1, 2, 2)), np.ones((1, 2, 2), int)
    with pytest.raises(ValueError, match=r"\(1, 2, 2\) and \(1, 4, 4\); resize masks"):
        count_segmentation(good, np.ones((1, 4, 4)))
    with pytest.raises(ValueError, match=r"masks must hold 1 .* hold \[255\]"):
        count_segmentation(good, 255 * mask)
    with pytest.raises(ValueError, match=r"masks must hold 1 .* hold \[0.5\]"):
        count_segmentation(good, 0.5 * mask)
    with pytest.raises(ValueError, match="saliency is not finite"):
        count_segmentation(np.nan * good, mask)
    with pytest.raises(ValueError, match=r"masks \[0\] label no pixel"):
        count_segmentation(good, -mask)
    with pytest.raises(ValueError, match="There are no counts"):
        segmentation_scores([])
    with pytest.raises(ValueError, match="2 scores and 2 labels, 0 of them positive"):
        average_precision([1, 2], [0, 0])
