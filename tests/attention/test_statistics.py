"""Distances, cosines and rows of layers, against loops over whole matrices."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close
from random_models import random_text_model, random_tokens
from vision_definition import draw_images, tiny_vim

import jmamba
from jmamba.attention import (
    average_layers,
    hidden_attention,
    mean_cosine,
    mean_distance,
    measure_layers,
)
from jmamba.types import Recurrence

LAYERS = 2
CLASS = 4  # of 10 tokens: not the centre


@cache
def subject(kind) -> tuple[Any, Any, Any]:
    """Return a model, inputs and their trace."""
    if kind == "text":
        model, inputs = random_text_model(layers=LAYERS), random_tokens()
    else:
        model, inputs = tiny_vim(), jnp.asarray(draw_images())
    return model, inputs, jmamba.trace(model, inputs)


@cache
def rows_of(kind, queries) -> np.ndarray:
    """Return the row of each sample's query, (s, b, d, l), in float64."""
    trace = subject(kind)[2]
    layers = [
        [
            np.asarray(hidden_attention(trace.layer(i), rows=[query])[b, :, 0])
            for b, query in enumerate(queries)
        ]
        for i in range(LAYERS)
    ]
    return np.array(layers, np.float64)


def loop_distance(row, query) -> float:
    weights = [abs(weight) for weight in row]
    far = [abs(query - j) * weight for j, weight in enumerate(weights)]
    return sum(far) / sum(weights)


def loop_cosine(x) -> float:
    pairs = [(i, j) for j in range(len(x)) for i in range(j)]
    cosines = [
        x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j]) for i, j in pairs
    ]
    return sum(cosines) / len(pairs)


def geometric_distance(r, length) -> float:
    """Mean of k = 0 ... length - 1 with weights r^k."""
    return r / (1 - r) - length * r**length / (1 - r**length)


@pytest.mark.parametrize("rate", [0.02, 0.3, 2.0])
def test_distance_of_an_exponential_kernel_is_its_mean(rate):
    length, delta = 50, 0.1
    ones = jnp.ones((1, length, 1))
    recurrence = Recurrence(
        u=ones, delta=delta * ones, A=jnp.array([[-rate / delta]]),
        B=ones[..., None], C=-ones[..., None],
    )  # fmt: skip
    queries = jnp.array([length - 1, 20])
    rows = hidden_attention(recurrence, rows=queries.tolist())[0, 0]
    expected = [geometric_distance(np.exp(-rate), i + 1) for i in queries.tolist()]
    assert_close(mean_distance(rows, queries), np.array(expected), 2e-6)


def test_distance_of_an_exponential_model_is_its_mean():
    """Equal tokens, no convolution and one state: all rows of the model decay alike."""
    graphdef, state = nnx.split(random_text_model(layers=LAYERS, d_state=1))
    model = nnx.merge(graphdef, jax.tree.map(lambda x: x, state))
    mixer = model.layers.mixer
    mixer.conv1d.weight[...] = mixer.conv1d.weight[...].at[..., :-1].set(0)
    mixer.out_proj.kernel[...] = 0 * mixer.out_proj.kernel[...]
    tokens = jnp.full((1, 30), 7, jnp.int32)
    recurrence = jmamba.trace(model, tokens).recurrence
    rate = np.asarray(recurrence.delta[:, 0, 0] * -recurrence.A[:, :, 0], np.float64)
    expected = geometric_distance(np.exp(-rate), 30)
    found = measure_layers(model, tokens).distance[:, 0]
    assert_close(found, expected, 1e-5)
    assert np.ptp(expected) > 1  # channels differ


@pytest.mark.parametrize(
    ("kind", "query"),
    [("text", None), ("text", [2, 5]), ("image", None), ("image", [0, -1])],
)
def test_measures_equal_loops_over_matrices(kind, query):
    model, inputs, trace = subject(kind)
    length = trace.residual_out.shape[2]
    usual = length - 1 if kind == "text" else CLASS
    queries = tuple(i % length for i in query or (usual, usual))
    rows = rows_of(kind, queries)
    measures = measure_layers(model, inputs, query=query)
    distances = [
        [[loop_distance(row, queries[b]) for row in rows[s, b]] for b in range(2)]
        for s in range(LAYERS)
    ]
    assert_close(measures.distance, np.array(distances), 1e-5)
    x = np.asarray(trace.residual_out, np.float64)
    cosines = [[loop_cosine(x[s, b]) for b in range(2)] for s in range(LAYERS)]
    assert_close(measures.similarity, np.array(cosines), 1e-5)
    assert_close(measures.row, np.abs(rows).mean(2), 1e-5)


def test_rows_are_reduced_as_asked():
    model, inputs, _ = subject("text")
    rows = rows_of("text", (6, 6))
    for name, reduce in (("mean", np.mean), ("max", np.max), ("product", np.prod)):
        measures = measure_layers(model, inputs, reduction=name)
        assert_close(measures.row, reduce(rows, axis=2), 1e-5)


def test_averages_run_over_batches_of_any_size():
    model, _, _ = subject("text")
    tokens = random_tokens(batch=3, length=6)
    whole = measure_layers(model, tokens, query=-2)
    counts = []
    averages = average_layers(
        model, iter([tokens[:2], tokens[2:]]), query=-2, report=counts.append
    )
    assert counts == [2, 3] and averages.samples == 3
    for found, each in zip(averages[:3], whole, strict=True):
        assert_close(found, np.asarray(each, np.float64).mean(axis=1), 1e-6)


def test_cosines_by_hand():
    draw = np.random.default_rng(0)
    x = draw.standard_normal((2, 5, 3))
    found = mean_cosine(jnp.asarray(x, jnp.float32))
    assert_close(found, np.array([loop_cosine(one) for one in x]), 2e-6)
    same = jnp.broadcast_to(jnp.asarray([1.0, -2.0]), (4, 2))
    scale = jnp.array([1e-30, 1.0, 1e30, 3.0])[:, None]
    assert float(mean_cosine(scale * same)) == pytest.approx(1, abs=1e-6)
    assert float(mean_cosine(jnp.eye(4))) == 0
    assert float(mean_cosine(same.at[0].set(0))) == pytest.approx(0.5, abs=1e-6)


def test_rows_of_zeros_stay_finite():
    found = mean_distance(jnp.zeros((2, 1, 4)), jnp.array([3]))
    assert not np.asarray(found).any()
    slopes = jax.grad(lambda rows: mean_distance(rows, jnp.array([3])).sum())
    assert np.isfinite(np.asarray(slopes(jnp.zeros((1, 4))))).all()


def test_statistics_messages():
    model, inputs, _ = subject("text")
    with pytest.raises(
        ValueError, match="Unknown reduction 'median'; give one of mean"
    ):
        measure_layers(model, inputs, reduction="median")
    with pytest.raises(ValueError, match=r"query=7 is out of range: give -7 to 6"):
        measure_layers(model, inputs, query=7)
    with pytest.raises(
        ValueError, match="no class token whose attention could be meas"
    ):
        measure_layers(tiny_vim(class_token="none"), jnp.asarray(draw_images()))
    with pytest.raises(ValueError, match="1 token has no pairs; give at least two"):
        measure_layers(model, inputs[:, :1])
    with pytest.raises(ValueError, match="There are no batches; give at least one"):
        average_layers(model, [])
    with pytest.raises(ValueError, match="has 5 tokens and those before it 7; average"):
        average_layers(model, [inputs, inputs[:, :5]])
