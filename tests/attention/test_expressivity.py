"""The paper's statements on expressivity, as far as they are true."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, selective_arrays
from random_models import random_text_model, random_tokens

import jmamba
from jmamba.attention import (
    counting_channel,
    hidden_attention,
    linear_attention,
    run_lengths,
    softmax_head,
    softmax_head_error,
    without_decay,
)
from jmamba.layers import run_recurrence
from jmamba.ops import selective_scan

STRINGS = jnp.array([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 1.0]])
RUNS = jnp.array([2.0, 1.0, 1.0])


def count_slowly(bits):
    """Return runs of one string by h = x h + x."""
    runs, h = [], 0
    for x in bits:
        h = x * h + x
        runs.append(h)
    return runs


def counted(bits, **options):
    return np.asarray(selective_scan(*counting_channel(bits, **options)[:7]).y[..., 0])


def all_strings(length):
    return np.array(list(itertools.product((0, 1), repeat=length)))


def test_channel_counts_in_all_short_strings():
    bits = all_strings(7)
    expected = np.array([count_slowly(row) for row in bits.tolist()])
    assert np.array_equal(run_lengths(bits), expected)
    assert np.abs(counted(bits) - expected).max() < 1e-4


def test_channel_counts_in_long_strings():
    draw = np.random.default_rng(0)
    bits = (draw.random((2, 3000)) < np.array([[0.5], [0.999]])).astype(int)
    runs = run_lengths(bits)
    assert runs[:, 10:].max() > 500 and (runs == 0).any(axis=1).all()
    assert np.array_equal(counted(bits).round(), runs)


@pytest.mark.parametrize("step", [0.1, 1e-2])
def test_steps_that_are_too_large_lose_what_the_bound_says(step):
    bits = np.ones((1, 20), int)
    r = run_lengths(bits)[0]
    lost = r - counted(bits, step=step)[0]
    exact = r - (1 - np.exp(-step * r)) / (1 - np.exp(-step))
    assert_close(lost, exact, 1e-3)
    assert (lost <= step * r * (r - 1) / 2 + 1e-4).all() and lost[-1] > step * 100


def test_printed_choice_sums_all_bits():
    bits = all_strings(6)
    sums = np.cumsum(bits, axis=1)
    assert np.abs(counted(bits, printed=True) - sums).max() < 1e-4
    assert (sums != run_lengths(bits)).any()


def test_attention_of_the_channel_sees_the_run_alone():
    bits = np.array([[1, 1, 0, 1, 1, 1, 0, 1]])
    alpha = np.asarray(hidden_attention(counting_channel(bits))[0, 0])
    within = [[int(bits[0, j : i + 1].all() and j <= i) for j in range(8)]
              for i in range(8)]  # fmt: skip
    assert np.abs(alpha - within).max() < 1e-4


def test_no_softmax_head_counts():
    grid = jnp.linspace(-30.0, 30.0, 6001)
    errors = np.asarray(softmax_head_error(grid))
    assert errors.min() >= 0.5 - 1e-5
    assert abs(float(grid[errors.argmin()]) - np.log(2.5)) < 0.02
    # the formula is the head's own error with the best value
    for w in (-3.0, 0.0, 0.9, 5.0):
        shape = np.asarray(softmax_head(STRINGS, w, 1.0), np.float64)
        found = np.linalg.lstsq(shape[:, None], np.asarray(RUNS, np.float64))[1][0]
        assert abs(found - float(softmax_head_error(jnp.array(w)))) < 1e-5


def test_training_a_softmax_head_ends_at_the_bound():
    def error(weights):
        return jnp.sum((softmax_head(STRINGS, *weights) - RUNS) ** 2)

    @jax.jit
    def descend(weights):
        step = lambda _, w: w - 0.1 * jax.grad(error)(w)  # noqa: E731
        return jax.lax.fori_loop(0, 500, step, weights)

    query_key, value = descend(jnp.array([0.0, 1.0]))
    assert float(error(jnp.array([query_key, value]))) == pytest.approx(0.5, abs=1e-5)
    assert float(jnp.exp(query_key)) == pytest.approx(2.5, abs=1e-2)
    assert float(value) == pytest.approx(1.8, abs=1e-2)


def test_softmax_head_does_not_see_the_order():
    x = jax.random.normal(jax.random.key(0), (1, 6))
    mixed = jnp.concatenate([x[:, jnp.array([3, 1, 4, 0, 2])], x[:, -1:]], axis=1)
    assert_close(softmax_head(mixed, 0.7, 2.0), softmax_head(x, 0.7, 2.0), 2e-6)


def test_layer_without_decay_is_linear_attention():
    recurrence = jmamba.trace(random_text_model(), random_tokens()).layer(1)
    free = without_decay(recurrence)
    y = run_recurrence(free._replace(D=None)).y
    assert_close(linear_attention(recurrence), y, 2e-6)
    delta, _, B, C = selective_arrays(recurrence)
    alpha = np.tril(np.einsum("bin,bjn->bij", C, B))[:, None]
    alpha = alpha * delta.transpose(0, 2, 1)[:, :, None]  # b l d -> b d 1 l
    assert_close(hidden_attention(free), alpha, 2e-6)
    with_decay = run_recurrence(recurrence._replace(D=None)).y
    assert float(jnp.max(jnp.abs(with_decay - y)) / jnp.max(jnp.abs(y))) > 0.1
