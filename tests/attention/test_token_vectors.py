"""T_i(x_j): what each token contributes to each output of a mixer."""

from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from random_models import random_text_model
from vision_definition import tiny_vim

from jmamba.attention import (
    FOLDS,
    BidirectionalFactors,
    alti_contributions,
    factorise,
    hidden_attention,
    lp_contributions,
    token_vectors,
)

KINDS = pytest.mark.parametrize("kind", ["text", "biased", "image"])


@cache
def case(kind) -> Any:
    if kind == "image":
        block = tiny_vim().layer(1)
    else:
        block = random_text_model(use_bias=kind == "biased").layer(1)
    x = np.random.default_rng(0).standard_normal((2, 6, 8)).astype(np.float32)
    return block, jnp.asarray(x)


@cache
def vectors_of(kind):
    return token_vectors(*case(kind))


@KINDS
def test_vectors_and_bias_are_the_product_of_all_factors(kind):
    """Norm, both projections and folded attention multiplied by hand, in float64."""
    block, x = case(kind)
    factors = factorise(block, x)
    alpha = np.asarray(hidden_attention(factors, fold=FOLDS), np.float64)
    scale = 1.0
    if isinstance(factors, BidirectionalFactors):
        scale = float(factors.scale)
    W_in = np.asarray(block.mixer.in_proj.kernel[...], np.float64)[:, :16]
    W_out = np.asarray(block.mixer.out_proj.kernel[...], np.float64)
    normed = np.asarray(block.norm(x), np.float64) @ W_in  # b j d
    shares = np.einsum("bdij,bjd,dm->bijm", alpha, normed, W_out) * scale
    found = vectors_of(kind)
    assert_close(found.vectors, shares, 3e-6)
    output = np.asarray(block(x).x - x, np.float64)
    assert_close(found.bias, output - shares.sum(2), 1e-5)
    assert np.abs(found.bias).max() > 1e-2  # the biases count


def test_texts_have_no_vectors_from_ahead():
    ahead = np.triu(np.ones((6, 6), bool), 1)
    assert not np.asarray(vectors_of("text").vectors)[:, ahead].any()
    assert np.asarray(vectors_of("image").vectors)[:, ahead].any()


def test_lp_contributions_are_norms():
    T = np.asarray(vectors_of("text").vectors, np.float64)
    for p in (1.0, 2.0, 3.0):
        expected = (np.abs(T) ** p).sum(-1) ** (1 / p)
        assert_close(lp_contributions(vectors_of("text"), p), expected, 1e-6)
    largest = lp_contributions(vectors_of("text"), float("inf"))
    assert_close(largest, np.abs(T).max(-1), 1e-6)


@pytest.mark.parametrize("residual", [True, False])
def test_alti_contributions_equal_their_definition(residual):
    (_, x), (T, bias) = case("image"), vectors_of("image")
    T, bias, stream = (np.asarray(v, np.float64) for v in (T, bias, x))
    expected = np.zeros((2, 6, 6))
    for b, i in np.ndindex(2, 6):
        shares = T[b, i] + (np.eye(6)[i][:, None] * stream[b, i] if residual else 0)
        y = shares.sum(0) + bias[b, i]
        near = [np.abs(y).sum() - np.abs(y - share).sum() for share in shares]
        near = np.maximum(near, 0)
        expected[b, i] = near / near.sum() if near.sum() else 0
    found = alti_contributions(vectors_of("image"), x if residual else None)
    assert_close(found, expected, 1e-5)


def test_token_vector_messages():
    block, x = case("text")
    with pytest.raises(ValueError, match="2 x 6 x 6 vectors of 8.* raise memory_limit"):
        token_vectors(block, x, memory_limit=100)
    with pytest.raises(ValueError, match="p=0.5: give at least 1"):
        lp_contributions(vectors_of("text"), 0.5)
