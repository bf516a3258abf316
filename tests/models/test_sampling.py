"""Settings, and each processor against transformers'."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from jmamba import Sampling
from jmamba.generation.sampling import draw, process_logits

ROWS, WORDS = 3, 50
LOGITS = 3 * np.random.default_rng(0).standard_normal((ROWS, WORDS)).astype(np.float32)
HELD = np.random.default_rng(1).integers(0, WORDS, (ROWS, 9))

THEIRS = {
    "repetition_penalty": transformers.RepetitionPenaltyLogitsProcessor,
    "temperature": transformers.TemperatureLogitsWarper,
    "top_k": transformers.TopKLogitsWarper,
    "top_p": transformers.TopPLogitsWarper,
    "min_p": transformers.MinPLogitsWarper,
}  # in their order


def ours(logits, settings: dict):
    seen = np.zeros(logits.shape, bool)
    np.put_along_axis(seen, HELD, True, axis=1)
    arguments: dict[str, Any] = {"temperature": 1.0} | settings
    settings = Sampling(**arguments).settings()
    return np.asarray(process_logits(jnp.asarray(logits), jnp.asarray(seen), settings))


def theirs(logits, settings: dict):
    scores = torch.from_numpy(logits.copy())
    for name, processor in THEIRS.items():
        if name in settings:
            scores = processor(settings[name])(torch.from_numpy(HELD), scores)
    return scores.numpy()


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.7},
        {"repetition_penalty": 0.6},
        {"temperature": 0.3},
        {"top_k": 1},
        {"top_k": 7},
        {"top_k": WORDS},
        {"top_p": 0.01},
        {"top_p": 0.5},
        {"top_p": 0.95},
        {"top_p": 1.0},
        {"min_p": 0.02},
        {"min_p": 1.0},
        {"top_k": 12, "top_p": 0.8},
        {"repetition_penalty": 1.3, "temperature": 0.7, "top_k": 20, "top_p": 0.9,
         "min_p": 0.05},
        {"temperature": 2.0, "top_p": 0.9, "min_p": 0.2},
    ],
    ids=str,
)  # fmt: skip
def test_processors_equal_transformers(settings):
    actual, expected = ours(LOGITS, settings), theirs(LOGITS, settings)
    np.testing.assert_array_equal(np.isinf(actual), np.isinf(expected))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_choices_equal_transformers_on_other_logits(seed):
    numbers = np.random.default_rng(seed)
    logits = numbers.standard_normal((ROWS, WORDS)).astype(np.float32)
    logits *= numbers.uniform(0.1, 20)
    p, q = numbers.uniform(0.05, 0.99, 2)
    settings = {"top_k": int(numbers.integers(1, WORDS)), "top_p": p, "min_p": q / 10}
    actual, expected = ours(logits, settings), theirs(logits, settings)
    np.testing.assert_array_equal(np.isinf(actual), np.isinf(expected))


def test_choices_keep_ties():
    logits = np.array([[1.0, 2.0, 1.0, 0.0]], np.float32)
    for settings in ({"top_k": 2}, {"top_p": 0.6}, {"min_p": 0.3}):
        kept = np.isfinite(ours_alone(logits, settings))
        np.testing.assert_array_equal(kept, [[True, True, True, False]])


def ours_alone(logits, settings: dict):
    settings = Sampling(temperature=1.0, **settings).settings()
    return process_logits(jnp.asarray(logits), None, settings)


def test_choices_keep_one_of_extreme_logits():
    logits = np.array([[-3e38, 3e38, 0.0, -np.inf]], np.float32)
    for settings in ({"top_k": 1}, {"top_p": 0.5}, {"min_p": 0.5}):
        kept = np.isfinite(ours_alone(logits, settings))
        np.testing.assert_array_equal(kept, [[False, True, False, False]])


def test_draw_follows_probabilities():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.125, 0.125]]))
    settings = Sampling(temperature=0.5).settings()
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = jax.jit(jax.vmap(lambda key: draw(logits, None, settings, key)))(keys)
    counts = np.bincount(np.asarray(drawn)[:, 0], minlength=4)
    expected = np.array([16, 4, 1, 1]) / 22
    np.testing.assert_allclose(counts / 20_000, expected, atol=0.01)  # 3 deviations


def test_draw_without_key_takes_the_most_likely():
    drawn = draw(jnp.asarray(LOGITS), None, {}, None)
    np.testing.assert_array_equal(drawn, LOGITS.argmax(-1))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"temperature": -0.1}, "temperature must be 0 .greedy. or a positive"),
        ({"temperature": float("nan")}, "temperature must be .* but is nan"),
        ({"temperature": float("inf")}, "temperature must be .* but is inf"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be a positive number"),
        ({"temperature": 1.0, "top_k": 0}, "top_k must be an integer .* but is 0"),
        ({"temperature": 1.0, "top_k": 2.5}, "top_k must be an integer .* but is 2.5"),
        (
            {"temperature": 1.0, "top_p": 0.0},
            r"top_p must be a probability in \(0, 1\]",
        ),
        ({"temperature": 1.0, "top_p": 1.1}, "top_p must be .* but is 1.1"),
        ({"temperature": 1.0, "min_p": -0.5}, "min_p must be .* Give None"),
        (
            {"top_p": 0.9},
            r"top_p would have no effect .*\(temperature=1.0, top_p=0.9\)",
        ),
    ],
    ids=str,
)
def test_sampling_messages(settings, match):
    with pytest.raises(ValueError, match=match):
        Sampling(**settings)
