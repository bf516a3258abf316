from functools import partial
from itertools import product

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from random_models import random_text_model, random_tokens
from vision_definition import tiny_vim

from jmamba.attention import patch_grid
from jmamba.evaluation import (
    activation_scores,
    flipping_scores,
    insertion_scores,
    pruning_scores,
    removal_curve,
    removal_masks,
    replace_patches,
    replace_tokens,
    sum_over_words,
)

REMOVE = partial(replace_tokens, replacement=0)
TOKENS = np.array([[5, 0, 1, 2], [1, 2, 3, 4]])
SINGLE = (0, 0.25, 0.5, 0.75, 1)


def total(tokens):
    """Class 1 counts on the sum of the tokens, class 0 on nothing."""
    return np.stack([0 * tokens[:, 0], tokens.sum(axis=1)], axis=1).astype(float)


def random_net(seed, length, classes=3):
    """A function of texts to logits that no order of removal leaves alone."""
    draw = np.random.default_rng(seed)
    inner, outer = draw.standard_normal((length, 7)), draw.standard_normal((7, classes))
    return lambda tokens: np.tanh(np.asarray(tokens) @ inner) @ outer


def loop_scores(predict, tokens, relevance, target, *, most_first, insert):
    """Remove or put back one token after the other, a text at a time."""
    curves = []
    for text, heat, wanted in zip(tokens, relevance, target, strict=True):
        order = sorted(range(len(text)), key=lambda i: -heat[i])
        order = order if most_first else order[::-1]
        now = np.zeros_like(text) if insert else text.copy()
        curve = [predict(now[None])[0, wanted]]
        for place in order:
            now = now.copy()
            now[place] = text[place] if insert else 0
            curve.append(predict(now[None])[0, wanted])
        curves.append(curve)
    return np.array(curves).T


def test_flipping_by_hand():
    scores = flipping_scores(total, TOKENS, TOKENS, REMOVE, target=1, fractions=SINGLE)
    # 5 2 1 0 go in this order, and 4 3 2 1
    assert scores.morf.scores.T.tolist() == [[8, 3, 1, 0, 0], [10, 6, 3, 1, 0]]
    assert scores.lerf.scores.T.tolist() == [[8, 8, 7, 5, 0], [10, 9, 7, 4, 0]]
    assert scores.morf.area.tolist() == [2.0, 3.75]  # (8/2 + 3 + 1) / 4, (5+6+3+1) / 4
    assert scores.delta.tolist() == [6.0 - 2.0, 6.25 - 3.75]
    negated = flipping_scores(total, TOKENS, -TOKENS, REMOVE, target=1)
    assert (negated.delta < 0).all()


@hypothesis.given(seed=st.integers(0, 999), length=st.integers(1, 6))
def test_curves_equal_one_by_one_removal(seed, length):
    draw = np.random.default_rng(seed)
    tokens = draw.integers(1, 9, (3, length))
    relevance = draw.integers(-2, 3, (3, length)) / 2  # with ties
    predict = random_net(seed, length)
    target = predict(tokens).argmax(axis=1)
    steps = np.arange(length + 1) / length
    for insert, measure in ((False, flipping_scores), (True, insertion_scores)):
        scores = measure(predict, tokens, relevance, REMOVE, fractions=steps)
        for curve, most_first in ((scores.morf, True), (scores.lerf, False)):
            expected = loop_scores(
                predict, tokens, relevance, target, most_first=most_first, insert=insert
            )
            np.testing.assert_allclose(curve.scores, expected, atol=1e-12)


@hypothesis.given(seed=st.integers(0, 999), length=st.integers(1, 6))
def test_insertion_is_flipping_from_the_other_end(seed, length):
    """With one replacement both deltas are one number, ties or not."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(1, 9, (2, length))
    relevance = draw.integers(-2, 3, (2, length))
    predict = random_net(seed, length)
    steps = np.arange(length + 1) / length
    flip, insert = (
        f(predict, tokens, relevance, REMOVE, fractions=steps)
        for f in (flipping_scores, insertion_scores)
    )
    np.testing.assert_allclose(insert.morf.scores, flip.lerf.scores[::-1], atol=1e-12)
    np.testing.assert_allclose(insert.delta, flip.delta, atol=1e-12)


def test_texts_of_different_lengths_share_a_batch():
    """Padding neither counts nor goes; each text is as it is alone."""
    present = np.array([[True, True, True, False], [True, True, True, True]])
    predict = random_net(3, 4)
    relevance = np.array([[0.5, 2.0, 1.0, 99.0], [1.0, 3.0, 2.0, 4.0]])
    masks = removal_masks(relevance, present=present, fractions=SINGLE)
    counts = np.stack([mask.sum(axis=1) for mask in masks])
    assert counts.tolist() == [[0, 0], [0, 1], [1, 2], [2, 3], [3, 4]]
    for order, start in product(("morf", "lerf"), ("whole", "empty")):
        for gone in removal_masks(relevance, order=order, start=start, present=present):
            assert not (gone & ~present).any()
    for measure in (flipping_scores, insertion_scores):
        both = measure(
            predict, TOKENS, relevance, REMOVE, present=present, target=[1, 2]
        )
        for i, target in enumerate((1, 2)):
            one = slice(i, i + 1)
            alone = measure(predict, TOKENS[one], relevance[one], REMOVE,
                            present=present[one], target=target)  # fmt: skip
            np.testing.assert_allclose(both.delta[one], alone.delta)


def test_every_step_takes_whole_features():
    for count in (29, 49, 57):  # k / n * n is below some k
        masks = removal_masks(
            np.ones((1, count)), fractions=np.arange(count + 1) / count
        )
        assert [int(gone.sum()) for gone in masks] == list(range(count + 1))


def test_words_go_as_one():
    words = np.array([[-1, 0, 0, 1], [0, 1, 2, -1]])
    summed = sum_over_words([[9.0, 1, 2, 2.5], [3, 2, 1, 9]], words)
    assert summed.relevance.tolist() == [[3.0, 2.5, 0.0], [3.0, 2.0, 1.0]]
    assert summed.present.tolist() == [[True, True, False], [True, True, True]]
    remove = partial(replace_tokens, replacement=0, words=words)
    seen = [
        remove(TOKENS, gone).tolist()
        for gone in removal_masks(summed.relevance, present=summed.present,
                                  fractions=(0, 0.5, 1))
    ]  # fmt: skip
    assert seen[0] == TOKENS.tolist()
    assert seen[1] == [[5, 0, 0, 2], [0, 2, 3, 4]]
    assert seen[2] == [[5, 0, 0, 0], [0, 0, 0, 4]]


def test_patches_become_black_or_the_mean():
    images = np.random.default_rng(0).random((2, 4, 6, 3)).astype(np.float32)
    gone = np.zeros((2, 6), bool)
    gone[0, 4] = True  # second row, second column
    black = replace_patches(images, gone, patch=2)
    assert black.dtype == np.float32 and not black[0, 2:, 2:4].any()
    mean = replace_patches(images, gone, patch=2, filling="mean")
    np.testing.assert_array_equal(mean[0, 3, 2], images[0].mean(axis=(0, 1)))
    for changed in (black, mean):
        changed[0, 2:, 2:4] = images[0, 2:, 2:4]
        np.testing.assert_array_equal(changed, images)


def test_patches_become_blurred_or_what_is_beside_them():
    images = np.random.default_rng(0).random((2, 4, 6, 3)).astype(np.float32)
    gone = np.zeros((2, 6), bool)
    gone[0, [0, 4]], gone[1] = True, True
    blurred = replace_patches(images, gone, patch=2, filling="blurred")
    np.testing.assert_allclose(blurred[1], gaussian(images[1]), atol=1e-6)
    filled = replace_patches(images, gone, patch=2, filling="neighbours")
    assert filled.dtype == np.float32
    np.testing.assert_array_equal(filled[0, :2, 2:], images[0, :2, 2:])
    left = ~gone[0].reshape(2, 3).repeat(2, axis=0).repeat(2, axis=1)
    y, x = np.mgrid[:4, :6]
    for place in [(0, 0), (1, 1), (2, 3)]:
        weight = left * np.exp(-(abs(y - place[0]) + abs(x - place[1])) / 2)
        mean = (weight[..., None] * images[0]).sum((0, 1)) / weight.sum()
        np.testing.assert_allclose(filled[0][place], mean, rtol=1e-5)
    mean = images[1].mean((0, 1))
    np.testing.assert_allclose(filled[1], np.broadcast_to(mean, (4, 6, 3)), rtol=1e-6)


def gaussian(image):
    """Blur by a loop over pixels, an eighth of the sides wide."""
    y, x = np.mgrid[:4, :6]
    found = np.empty_like(image)
    for i, j in np.ndindex(4, 6):
        weight = np.exp(-(((y - i) / 0.5) ** 2 + ((x - j) / 0.75) ** 2) / 2)
        found[i, j] = (weight[..., None] * image).sum((0, 1)) / weight.sum()
    return found


def test_patches_are_counted_as_a_model_reads_them():
    """Without patch f only the token changes that patch_grid puts into place f."""
    model, image = tiny_vim(class_token=3), np.ones((1, 12, 12, 3), np.float32)
    images = np.concatenate([image, replace_nine(image)])
    tokens = np.asarray(model.embed(jnp.asarray(images)))
    changed = np.abs(tokens[1:] - tokens[:1]).max(axis=2)
    grid = patch_grid(model, jnp.asarray(changed), 12, 12)
    assert (np.asarray(grid).reshape(9, 9) > 0).tolist() == np.eye(9).tolist()


def replace_nine(image):
    """Return nine images, each without another patch."""
    return replace_patches(image.repeat(9, axis=0), np.eye(9, dtype=bool), patch=4)


def test_activation_is_the_probability_of_the_class():
    tokens, relevance = np.array([[0, 50, 1]]), np.array([[0.1, 0.9, 0.3]])
    steps = (0, 1 / 3, 2 / 3, 1)
    curve = activation_scores(
        total, tokens, relevance, REMOVE, target=[0], fractions=steps
    )
    expected = 1 / (1 + np.exp([0.0, 50, 51, 51]))
    np.testing.assert_allclose(curve.scores[:, 0], expected, rtol=1e-12)
    assert curve.area == pytest.approx((0.25 + expected[1:].sum()) / 3, rel=1e-12)


def test_pruning_takes_the_smallest_magnitude_first():
    steps = (0, 0.25, 0.5, 0.75, 1)
    relevance = np.array([[-4.0, 1.0, 2.0, -3.0]])
    curve = pruning_scores(total, TOKENS[:1], relevance, REMOVE, fractions=steps)
    # 0, 1, 2 and 5 go; of two classes one moves: half the square
    assert curve.scores[:, 0].tolist() == [0, 0, 1 / 2, 9 / 2, 64 / 2]
    assert curve.area.tolist() == [(0 + 0.5 + 4.5 + 16) / 4]


def test_an_informed_order_beats_a_random_one():
    """Exact relevance of an additive model has the largest delta there is."""
    draw = np.random.default_rng(1)
    tokens = draw.integers(0, 9, (20, 8))
    exact = flipping_scores(total, tokens, tokens, REMOVE, target=1)
    other = draw.random(tokens.shape)
    random = flipping_scores(total, tokens, other, REMOVE, target=1)
    assert (exact.delta >= np.abs(random.delta)).all()
    assert exact.delta.mean() > 1 > abs(random.delta.mean())


def test_models_are_scored_as_they_are():
    model, tokens = random_text_model(layers=1), random_tokens()

    def predict(tokens):
        return model(jnp.asarray(tokens)).logits[:, -1]

    relevance = np.random.default_rng(0).standard_normal(tokens.shape)
    scores = flipping_scores(predict, tokens, relevance, REMOVE)
    logits = np.asarray(predict(tokens))
    np.testing.assert_array_equal(scores.morf.scores[0], logits.max(axis=1))
    empty = np.asarray(predict(np.zeros_like(tokens)))
    at_end = empty[np.arange(2), logits.argmax(axis=1)]
    np.testing.assert_array_equal(scores.morf.scores[-1], at_end)
    np.testing.assert_array_equal(scores.lerf.scores[-1], at_end)


def test_faithfulness_messages():
    heat = np.ones((2, 4))
    run = partial(flipping_scores, total, TOKENS)
    with pytest.raises(ValueError, match="score='loss': give 'logit' or 'probability'"):
        run(heat, REMOVE, score="loss")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="target=1.5: give one integer, or one for"):
        run(heat, REMOVE, target=1.5)
    with pytest.raises(ValueError, match=r"target=\[0, 2\] is out of range: give 0 to"):
        run(heat, REMOVE, target=[0, 2])
    with pytest.raises(ValueError, match="order='up', start='whole': give 'morf' or"):
        removal_curve(total, TOKENS, heat, REMOVE, order="up")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"fractions=\[0.5\]: give at least two"):
        run(heat, REMOVE, fractions=(0.5,))
    with pytest.raises(ValueError, match=r"fractions=\[0.5, 0.1\]: .* ascending"):
        run(heat, REMOVE, fractions=(0.5, 0.1))
    with pytest.raises(ValueError, match=r"fractions=\[0, 2\]: .* from 0 to 1"):
        run(heat, REMOVE, fractions=(0, 2))
    with pytest.raises(ValueError, match=r"but are \(2, 4\) and \(4,\)"):
        run(heat, REMOVE, present=[True] * 4)
    with pytest.raises(ValueError, match=r"samples \[1\] have no feature to remove"):
        run(heat, REMOVE, present=[[True] * 4, [False] * 4])
    with pytest.raises(ValueError, match="relevance is not finite"):
        run(heat * np.nan, REMOVE)
    with pytest.raises(ValueError, match=r"\(2,\), but must return logits .*logits\[:"):
        pruning_scores(lambda x: x[:, 0], TOKENS, heat, REMOVE)
    with pytest.raises(ValueError, match="predict returned logits that are not finite"):
        pruning_scores(lambda x: x + np.nan, TOKENS, heat, REMOVE)


def test_removal_messages():
    with pytest.raises(ValueError, match="tokens must be integers .* are float64"):
        REMOVE([[1.0]], [[True]])
    with pytest.raises(
        ValueError, match=r"gone has shape \(2, 3\) and tokens \(2, 4\)"
    ):
        REMOVE(TOKENS, np.ones((2, 3), bool))
    with pytest.raises(
        ValueError, match=r"\(2, 3\), but there are words up to number 3"
    ):
        REMOVE(TOKENS, np.ones((2, 3), bool), words=[[0, 1, 2, 3]] * 2)
    with pytest.raises(ValueError, match=r"for each token \(2, 4\), but are int64 of"):
        REMOVE(TOKENS, np.ones((2, 3), bool), words=[[0, 1]] * 2)
    with pytest.raises(ValueError, match="words hold -2: count them from 0"):
        sum_over_words([[1.0]], [[-2]])
    image = np.ones((1, 4, 4, 3))
    with pytest.raises(ValueError, match="images must be floats .* are int64 of shape"):
        replace_patches(image.astype(int), [[True]], patch=4)
    with pytest.raises(ValueError, match="filling='red': give one of 'black', "):
        replace_patches(image, [[True]], patch=4, filling="red")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="patch=3 does not divide images of 4 x 4"):
        replace_patches(image, [[True]], patch=3)
    with pytest.raises(ValueError, match=r"\(1, 5\), but 1 images .* have 4 patches"):
        replace_patches(image, np.ones((1, 5), bool), patch=2)
