import numpy as np
import pytest

from jmamba.evaluation import (
    FRACTIONS,
    area_under_curve,
    black_out,
    perturbation_scores,
)
from jmamba.models.vim.images import IMAGENET_MEAN, IMAGENET_STD

IMAGE = np.linspace(0.1, 1, 10).reshape(1, 2, 5, 1).repeat(3, axis=3)
HEAT = np.arange(10.0).reshape(1, 2, 5)


def brightness(x):
    """Class 1 if the last of the ten pixels is bright, else class 0."""
    pixels = x * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)
    return np.stack([np.full(len(x), 0.5), pixels[:, 1, 4, 0]], axis=1)


def test_black_out_takes_the_most_or_the_least_salient():
    most, least = (
        black_out(IMAGE, HEAT, 0.3, order="positive"),
        black_out(IMAGE, HEAT, 0.3, order="negative"),
    )
    for black, gone in ((most, [7, 8, 9]), (least, [0, 1, 2])):
        expected = IMAGE.copy().reshape(10, 3)
        expected[gone] = 0
        np.testing.assert_array_equal(black.reshape(10, 3), expected)
    assert not black_out(IMAGE, HEAT, 1.0).any()
    np.testing.assert_array_equal(black_out(IMAGE, HEAT, 0.0), IMAGE)


def test_every_fraction_takes_whole_pixels():
    for fraction in FRACTIONS:  # 0.3 * 10 is 3.0000000000000004, 0.7 * 10 is 7
        black = black_out(IMAGE, HEAT, fraction)
        assert (black[..., 0] == 0).sum() == round(10 * fraction)


def test_curves_by_hand():
    images, heat = IMAGE.repeat(2, axis=0), np.concatenate([HEAT, -HEAT])
    scores = perturbation_scores(brightness, images, heat, [1, 1])
    # the bright pixel goes first in one image and last in the other
    assert scores.correct[:, 0].tolist() == [False] * 9
    assert scores.correct[:, 1].tolist() == [True] * 9
    assert scores.auc == 0.5 and scores.fractions.tolist() == list(FRACTIONS)
    negative = perturbation_scores(brightness, images, heat, [1, 0], order="negative")
    assert negative.correct[:, 0].tolist() == [True] * 9
    assert negative.correct[:, 1].tolist() == [True] * 9  # black, and labelled so
    assert negative.accuracy.tolist() == [1.0] * 9


def test_negative_is_positive_of_negated_saliency():
    draw = np.random.default_rng(0)
    images, heat = draw.random((3, 4, 4, 3)), draw.random((3, 4, 4))
    first = black_out(images, heat, 0.4, order="negative")
    np.testing.assert_array_equal(first, black_out(images, -heat, 0.4))


def test_rules_of_the_area():
    accuracy = np.array([0.9, 0.5, 0.1])
    assert area_under_curve(accuracy) == pytest.approx(0.5)
    area = area_under_curve(accuracy, (0.1, 0.5, 0.9), rule="trapezoid")
    assert area == pytest.approx(0.5)
    uneven = area_under_curve(accuracy, (0.1, 0.2, 0.9), rule="trapezoid")
    assert uneven == pytest.approx((0.1 * 0.7 + 0.7 * 0.3) / 0.8)


def test_perturbation_messages():
    with pytest.raises(ValueError, match=r"they are \(1, 2, 5, 3\) and \(1, 5, 2\)"):
        black_out(IMAGE, HEAT.reshape(1, 5, 2), 0.1)
    with pytest.raises(ValueError, match=r"floats in \[0, 1\], not normalised ones"):
        black_out(IMAGE - 1, HEAT, 0.1)
    with pytest.raises(ValueError, match="but are uint8; resize_and_crop"):
        black_out((255 * IMAGE).astype(np.uint8), HEAT, 0.1)
    with pytest.raises(ValueError, match="saliency is not finite"):
        black_out(IMAGE, HEAT + np.inf, 0.1)
    with pytest.raises(ValueError, match="order='up': give 'positive' or 'negative'"):
        black_out(IMAGE, HEAT, 0.1, order="up")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="fraction=1.5: give a share from 0 to 1"):
        black_out(IMAGE, HEAT, 1.5)
    with pytest.raises(ValueError, match=r"labels have shape \(2,\), but there are 1"):
        perturbation_scores(brightness, IMAGE, HEAT, [1, 1])
    with pytest.raises(ValueError, match="rule='sum': give 'mean' or 'trapezoid'"):
        area_under_curve([1.0], rule="sum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least two, but there are 0 and 2"):
        area_under_curve([1.0, 0.0], rule="trapezoid")
