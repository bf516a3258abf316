"""Decimated prefills, against a slow definition that keeps lists of places."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from random_models import random_text_model, random_tokens

import jmamba
from jmamba.generation import (
    Decimation,
    decimated_lengths,
    prefill_decimated,
    score_decimating_layers,
)
from jmamba.generation.decimation import largest_steps, take_tokens

LENGTH = 13
SETTINGS = Decimation(layers=(0, 2), base_length=9, decay=0.7, min_length=2)


def largest_by_loop(delta, count, last):
    """Return places of the largest steps of one text, by a stable sort in NumPy."""
    norm = np.sqrt((np.asarray(delta, np.float64) ** 2).sum(axis=1))
    before = len(norm) - last
    order = np.argsort(-norm[:before], kind="stable")[: count - last]
    return sorted([*order.tolist(), *range(before, len(norm))])


def run_slowly(model, tokens, drops, *, new=0, last=1):
    """Run layer by layer on one text, of which the `new` last tokens drop nothing.

    Returns the logits of all tokens that are left, and their places.
    """
    x, places = model.embed(tokens), np.arange(tokens.shape[1])
    for i in range(model.config.num_layers):
        block = model.layer(i)
        recurrence = block.project(x).recurrence
        if i in drops:
            old = x.shape[1] - new
            stay = largest_by_loop(recurrence.delta[0, :old], drops[i], last)
            stay = np.array([*stay, *range(old, x.shape[1])])
            recurrence, x = take_tokens(recurrence, jnp.asarray(stay[None])), x[:, stay]
            places = places[stay]
        x = x + block.mixer.mix(recurrence)[0]
    return model.unembed(x), places


def test_schedule_by_hand():
    settings = Decimation(layers=(1, 2, 3, 4), base_length=100, decay=0.5, last=5)
    settings = dataclasses.replace(settings, min_length=20)
    assert decimated_lengths(settings, 300) == (100, 50, 25, 20)
    assert decimated_lengths(settings, 40) == (40, 40, 25, 20)
    assert decimated_lengths(settings, 7) == (7, 7, 7, 7)
    many = dataclasses.replace(settings, last=60)
    assert decimated_lengths(many, 300) == (100, 60, 60, 60)


@pytest.mark.parametrize(("count", "last"), [(1, 0), (5, 0), (5, 3), (5, 5), (9, 2)])
def test_kept_tokens_equal_a_stable_sort(count, last):
    draw = np.random.default_rng(count)
    delta = draw.integers(0, 2, (3, 9, 2)).astype(np.float32)  # many ties
    found = np.asarray(largest_steps(jnp.asarray(delta), count, last=last))
    expected = [largest_by_loop(one, count, last) for one in delta]
    assert found.tolist() == expected
    assert len({tuple(row) for row in expected}) > 1 or count in (last, 9)


def test_nothing_dropped_is_the_ordinary_forward():
    model, tokens = random_text_model(), random_tokens(length=LENGTH)
    out = prefill_decimated(model, tokens, Decimation(layers=(1,), base_length=LENGTH))
    expected = model(tokens)
    assert np.array_equal(out.logits, expected.logits)
    chex.assert_trees_all_equal(out.cache, expected.cache)
    assert np.array_equal(out.kept, np.tile(np.arange(LENGTH), (2, 1)))


def test_tokens_of_no_step_change_nothing_when_dropped():
    block = random_text_model().layer(0)
    x = jax.random.normal(jax.random.key(0), (2, LENGTH, 8))
    recurrence = block.mixer.project(x).recurrence
    gone = np.array([[0, 4, 5, 9], [1, 2, 7, 11]])
    delta = np.array(recurrence.delta)
    for row, places in enumerate(gone):
        delta[row, places] = 0
    recurrence = recurrence._replace(delta=jnp.asarray(delta))
    kept = largest_steps(recurrence.delta, LENGTH - 4)
    for row, places in enumerate(gone):
        assert not set(places) & set(np.asarray(kept[row]).tolist())
    out, state = block.mixer.mix(recurrence)
    few, same = block.mixer.mix(take_tokens(recurrence, kept))
    expected = np.take_along_axis(np.asarray(out), np.asarray(kept)[..., None], axis=1)
    assert_close(few, expected, 2e-6)
    assert_close(same, state, 2e-6)


@pytest.mark.parametrize("layers", [(1,), (-1,), (0, 2)])
def test_prefill_and_decoding_equal_the_slow_definition(layers):
    model, tokens = random_text_model(), random_tokens(length=LENGTH + 2, seed=1)
    settings = dataclasses.replace(SETTINGS, layers=layers, last=2)
    out = prefill_decimated(model, tokens[:, :LENGTH], settings)
    drops = dict(zip([i % 3 for i in layers], (9, 6), strict=False))
    decoded = model(tokens[:, LENGTH:], cache=out.cache)
    for row in range(2):
        text = tokens[row : row + 1]
        logits, places = run_slowly(model, text[:, :LENGTH], drops, last=2)
        assert np.asarray(out.kept[row]).tolist() == places.tolist()
        assert len(places) < LENGTH and places[-2:].tolist() == [LENGTH - 2, LENGTH - 1]
        assert_close(out.logits[row], logits[0], 1e-5)
        logits, _ = run_slowly(model, text, drops, new=2, last=2)
        assert_close(decoded.logits[row], logits[0, -2:], 1e-5)
    assert not np.array_equal(out.kept[0], out.kept[1])


def test_generation_goes_on_from_a_decimated_cache():
    model, tokens = random_text_model(), random_tokens(length=LENGTH)
    out = prefill_decimated(model, tokens, SETTINGS)
    first = jnp.argmax(out.logits[:, -1], axis=-1)[:, None].astype(jnp.int32)
    made = jmamba.generate(model, first, max_new_tokens=2, cache=out.cache)
    cache, token = out.cache, first
    for step in range(2):
        step_out = model(token, cache=cache)
        token = jnp.argmax(step_out.logits[:, -1], axis=-1)[:, None].astype(jnp.int32)
        cache = step_out.cache
        assert np.array_equal(made.tokens[:, step], token[:, 0])


def test_layers_are_tried_one_by_one():
    model, tokens = random_text_model(), random_tokens(length=LENGTH)
    seen = []

    def score(out):
        seen.append(out)
        return float(out.logits[0, -1, 3])

    found = score_decimating_layers(model, tokens, score, SETTINGS, layers=[2, 0])
    assert found.shape == (2,) and len(set(found.tolist())) == 2
    for layer, out, value in zip((0, 2), seen, found, strict=True):
        alone = dataclasses.replace(SETTINGS, layers=(layer,))
        expected = prefill_decimated(model, tokens, alone)
        assert np.array_equal(out.logits, expected.logits)
        assert value == float(expected.logits[0, -1, 3])


def test_decimation_messages():
    mistakes: list[tuple[str, Any]] = [
        ("decay", 1.5), ("base_length", 0), ("min_length", 0), ("last", -1)
    ]  # fmt: skip
    for name, value in mistakes:
        with pytest.raises(ValueError, match=f"'{name}': {value}.* cannot be; give"):
            Decimation(**{name: value})
    model, tokens = random_text_model(), random_tokens()
    with pytest.raises(ValueError, match="layers 0 to 2"):
        prefill_decimated(model, tokens, Decimation())
    with pytest.raises(ValueError, match=r"lie in \[0, 24\)"):
        prefill_decimated(model, tokens + 24, SETTINGS)
    with pytest.raises(ValueError, match="8 of 7 tokens cannot stay, 0 of them"):
        largest_steps(jnp.ones((1, 7, 1)), 8)
    with pytest.raises(ValueError, match="give a count from 3 to 7"):
        largest_steps(jnp.ones((1, 7, 1)), 2, last=3)
