"""Explanations by token vectors against products over layers, in float64."""

from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from attention_definition import LAYERS, inputs_of, model_of, query_of, traced
from helpers import assert_close
from vision_definition import draw_images, tiny_vim

from jmamba.attention import (
    alti,
    alti_contributions,
    alti_logit,
    alti_matrix,
    lp_contributions,
    norm_matrix,
    token_norms,
    token_vectors,
)

KINDS = pytest.mark.parametrize("kind", ["text", "image"])
TARGET = 3


@cache
def layers_of(kind):
    """The token vectors of every layer, and the stream that enters it."""
    t, model = traced(kind), model_of(kind)
    return [
        (token_vectors(model.layer(i), t.residual_in[i]), t.residual_in[i])
        for i in range(LAYERS)
    ]


@cache
def mixing(kind) -> np.ndarray:
    found = [alti_contributions(vectors, x) for vectors, x in layers_of(kind)]
    return np.asarray(found, np.float64)


def read_out(kind):
    """The logit as a linear map of the query's last vector: slope (b, m), constant."""
    i = query_of(kind)
    model: Any = model_of(kind)
    last = np.asarray(traced(kind).residual_out[-1], np.float64)[:, i]
    scale = np.asarray(model.norm_f.scale[...], np.float64)
    if kind == "image":
        column = np.asarray(model.head.kernel[...], np.float64)[:, TARGET]
        constant = float(model.head.bias[...][TARGET])
    else:
        column = np.asarray(model.embedding[...], np.float64)[TARGET]
        constant = 0.0
    rms = np.sqrt((last**2).mean(-1, keepdims=True) + model.config.norm_eps)
    return column * scale / rms, constant


@KINDS
def test_matrices_are_those_of_the_vectors(kind):
    vectors, x = layers_of(kind)[1]
    block = model_of(kind).layer(1)
    assert_close(alti_matrix(block, x), alti_contributions(vectors, x), 1e-5)
    for p in (1.0, 2.0):
        assert_close(norm_matrix(block, x, p), lp_contributions(vectors, p), 1e-5)


@KINDS
def test_token_norms_are_the_mean_over_layers(kind):
    norms = [lp_contributions(vectors, 1.0) for vectors, _ in layers_of(kind)]
    expected = np.mean(np.asarray(norms, np.float64), axis=0)[:, query_of(kind)]
    found = token_norms(model_of(kind), inputs_of(kind), p=1.0)
    assert_close(found, expected, 1e-5)


@KINDS
def test_alti_is_the_product_over_layers(kind):
    expected = np.eye(mixing(kind).shape[-1])
    for c in mixing(kind):
        expected = c @ expected
    found = alti(model_of(kind), inputs_of(kind))
    assert_close(found, expected[:, query_of(kind)], 1e-5)
    assert_close(jnp.sum(found, axis=1), np.ones(2), 1e-5)


@KINDS
def test_alti_logit_is_its_sum_over_layers(kind):
    slope, constant = read_out(kind)
    i, length = query_of(kind), mixing(kind).shape[-1]
    embedded = np.asarray(layers_of(kind)[0][1], np.float64)
    expected = np.zeros((2, length))
    expected[:, i] = (embedded[:, i] * slope).sum(-1)
    below = np.broadcast_to(np.eye(length), (2, length, length))
    biases = np.full(2, constant)
    for (vectors, _), c in zip(layers_of(kind), mixing(kind), strict=True):
        T = np.asarray(vectors.vectors, np.float64)[:, i]
        shares = np.einsum("bjm,bm->bj", T, slope)
        expected += np.einsum("bj,bjk->bk", shares, below)
        biases += (np.asarray(vectors.bias, np.float64)[:, i] * slope).sum(-1)
        below = c @ below
    model: Any = model_of(kind)
    inputs = inputs_of(kind)
    found = alti_logit(model, inputs, target=TARGET)
    assert_close(found, expected, 1e-5)
    logits = model(inputs) if kind == "image" else model(inputs).logits[:, -1]
    assert np.abs(biases).max() > 1e-3  # the biases count
    assert_close(jnp.sum(found, axis=1) + biases.astype(np.float32),
                 logits[:, TARGET], 1e-5)  # fmt: skip


def test_samples_have_their_own_queries_and_targets():
    model, tokens = model_of("text"), inputs_of("text")
    together = alti_logit(model, tokens, target=[3, 1], query=[2, -1])
    assert not np.any(together[0, 3:])
    alone = alti_logit(model, tokens[1:], target=1)
    assert_close(together[1:], alone, 1e-5)


def test_models_without_class_token_take_all_rows():
    model, images = tiny_vim(class_token="none", layers=2), jnp.asarray(draw_images())
    rows = [alti(model, images, query=i) for i in range(9)]
    assert_close(alti(model, images), np.mean(np.asarray(rows), axis=0), 1e-5)


def test_norms_need_a_p():
    with pytest.raises(ValueError, match="p=0.0: give at least 1"):
        token_norms(model_of("text"), inputs_of("text"), p=0.0)
