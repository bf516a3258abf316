"""Intervals over seeds and samples hold what they say; scores equal scikit-learn's."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, jaccard_score
from sklearn.metrics import roc_auc_score as sklearn_auc

from jmamba.evaluation import (
    average_precision,
    compare_over_seeds,
    correct_for_many,
    count_segmentation,
    ranking_auc,
    segmentation_scores,
)


@pytest.mark.parametrize("spread", [0.0, 0.2, 1.0])
def test_intervals_over_seeds_hold_the_mean(spread):
    """Of 95 % intervals at least 93 % do: many where seeds are alike, 95 % if not."""
    draw = np.random.default_rng(0)
    seeds, count, runs = 5, 30, 300
    covered = []
    for _ in range(runs):
        of_seed = spread * draw.normal(size=(seeds, 1))
        of_sample = draw.normal(size=(1, count))
        found = of_seed + of_sample + 0.5 * draw.normal(size=(seeds, count))
        low, high = compare_over_seeds(np.mean, 3 + found, resamples=100)[1:3]
        covered.append(low <= 3 <= high)
    assert np.mean(covered) > 0.93
    assert spread < 1 or np.mean(covered) < 0.99


def test_p_values_are_even_where_nothing_differs():
    draw = np.random.default_rng(1)
    found = [
        compare_over_seeds(np.mean, draw.normal(size=(6, 1)) + np.zeros((6, 4)),
                           resamples=100).p_value
        for _ in range(300)
    ]  # fmt: skip
    for level in (0.05, 0.5):
        assert abs(np.mean(np.array(found) < level) - level) < 0.06
    sure = compare_over_seeds(np.mean, 3 + draw.normal(size=(6, 50)))
    assert sure.p_value < 1e-3 and sure.low > 2


def test_scores_without_spread_are_points():
    found = compare_over_seeds(np.mean, np.full((3, 4), 0.25))
    assert tuple(found) == (0.25, 0.25, 0.25, 0.0)
    assert compare_over_seeds(np.mean, np.zeros((3, 4))).p_value == 1.0


def test_corrected_p_values_are_holms():
    found = correct_for_many([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(found, [0.03, 0.06, 0.06, 0.02], rtol=1e-12)
    assert correct_for_many([0.6, 0.7]).tolist() == [1.0, 1.0]
    draw = np.random.default_rng(2)  # all differences are zero
    any_found = [correct_for_many(draw.random(7)).min() < 0.05 for _ in range(2000)]
    assert abs(np.mean(any_found) - 0.05) < 0.015


def test_comparison_messages():
    with pytest.raises(ValueError, match=r"\[\(1, 5\)\] over seeds and samples: give"):
        compare_over_seeds(np.mean, np.ones((1, 5)))
    with pytest.raises(ValueError, match=r"\[\(2, 5\), \(2, 4\)\] over seeds"):
        compare_over_seeds(np.mean, np.ones((2, 5)), np.ones((2, 4)))
    with pytest.raises(ValueError, match="level=95, resamples=1000: give a level betw"):
        compare_over_seeds(np.mean, np.ones((2, 5)), level=95)
    with pytest.raises(ValueError, match=r"p_values=\[2\]: give numbers from 0 to 1"):
        correct_for_many([2])


# scores against scikit-learn ----------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_rankings_equal_those_of_scikit_learn(seed):
    draw = np.random.default_rng(seed)
    scores = np.round(draw.random(80), 1 if seed % 2 else 6)  # with ties, without
    labels = draw.random(80) < 0.3
    expected = average_precision_score(labels, scores)
    assert average_precision(scores, labels) == pytest.approx(expected, abs=1e-12)
    expected = sklearn_auc(labels, scores)
    assert ranking_auc(scores, labels) == pytest.approx(expected, abs=1e-12)


def test_segmentation_equals_that_of_scikit_learn():
    draw = np.random.default_rng(0)
    heat = draw.random((6, 9, 9))
    masks = (draw.random((6, 9, 9)) < 0.4).astype(int)
    found = segmentation_scores([count_segmentation(heat, masks)])
    guess = heat > heat.mean((1, 2), keepdims=True)
    truth, guess = masks.ravel(), guess.astype(int).ravel()
    assert found.pixel_accuracy == pytest.approx(accuracy_score(truth, guess))
    iou = jaccard_score(truth, guess, average="macro")
    assert found.mean_iou == pytest.approx(iou)
    low, high = heat.min((1, 2), keepdims=True), heat.max((1, 2), keepdims=True)
    scaled = (heat - low) / (high - low)
    expected = np.mean([
        average_precision_score(np.eye(2)[mask.ravel()].ravel(),
                                np.stack([1 - one, one], -1).ravel())
        for mask, one in zip(masks, scaled, strict=True)
    ])  # fmt: skip
    assert found.mean_average_precision == pytest.approx(expected, abs=1e-9)
