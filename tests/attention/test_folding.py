"""Attention with more of the mixer folded in: identities that hold exactly."""

from functools import cache

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, quick_jit
from hypothesis import strategies as st
from random_models import random_text_model
from vision_definition import draw_images, tiny_vim

import jmamba
from jmamba.attention import (
    FOLDS,
    BidirectionalFactors,
    Factors,
    bias_output,
    factorise,
    hidden_attention,
    inner_attention,
    reduced_attention,
    top_channels,
)
from jmamba.layers import run_recurrence
from jmamba.layers.freezing import UNIFIED
from jmamba.types import BidirectionalRecurrence

CASES = [(), ("D", "gate"), ("silu",), ("conv",), FOLDS]


@cache
def text_factors() -> Factors:
    block = random_text_model().layer(1)
    x = np.random.default_rng(0).standard_normal((2, 7, 8)).astype(np.float32)
    factors = factorise(block, jnp.asarray(x))
    assert isinstance(factors, Factors)
    return factors


@cache
def image_case():
    model = tiny_vim()
    block = model.layer(1)
    x = np.random.default_rng(0).standard_normal((2, 9, 8)).astype(np.float32)
    return block, jnp.asarray(x)


@cache
def image_factors() -> BidirectionalFactors:
    factors = factorise(*image_case())
    assert isinstance(factors, BidirectionalFactors)
    return factors


def dense(factors: Factors, fold) -> np.ndarray:
    """Multiply the matrices themselves, in float64: (b, d, l, l)."""
    numbers = jax.tree.map(lambda x: np.asarray(x, np.float64), factors)
    recurrence, length = numbers.recurrence, numbers.x.shape[1]
    out = np.zeros((*numbers.x.shape[::2], length, length))
    for b, d in np.ndindex(out.shape[:2]):
        M = np.zeros((length, length))
        for i, j in np.ndindex(M.shape):
            if j <= i:
                elapsed = recurrence.delta[b, j + 1 : i + 1, d].sum()
                decay = np.exp(recurrence.A[d] * elapsed)
                M[i, j] = (
                    recurrence.C[b, i, 0] * recurrence.B[b, j, 0] * decay
                ).sum() * recurrence.delta[b, j, d]
        if "D" in fold:
            M = M + recurrence.D[d] * np.eye(length)
        if "silu" in fold:
            M = M @ np.diag(numbers.slope[b, :, d])
        if "conv" in fold:
            taps = numbers.taps[d]
            window = len(taps)
            band = np.zeros((length, length))
            for t, s in np.ndindex(band.shape):
                if 0 <= t - s < window:
                    band[t, s] = taps[window - 1 - (t - s)]
            M = M @ band
        if "gate" in fold:
            z = recurrence.z[b, :, d]
            np.testing.assert_allclose(
                numbers.gate[b, :, d], z / (1 + np.exp(-z)), 1e-5
            )
            M = np.diag(z / (1 + np.exp(-z))) @ M
        out[b, d] = M
    return out


@pytest.mark.parametrize("fold", CASES)
def test_folded_attention_is_the_product_of_its_matrices(fold):
    factors = text_factors()
    assert_close(hidden_attention(factors, fold=fold), dense(factors, fold), 2e-6)


@pytest.mark.parametrize("fold", [(), FOLDS])
def test_both_directions_add_up(fold):
    factors = image_factors()
    expected = dense(factors.forward, fold)
    expected = expected + dense(factors.backward, fold)[:, :, ::-1, ::-1]
    assert_close(hidden_attention(factors, fold=fold), expected, 2e-6)
    rows = hidden_attention(factors, fold=fold, rows=[4, -1], channels=[3])
    assert_close(rows, expected[:, 3:4][:, :, [4, 8]], 2e-6)


def test_a_recurrence_suffices_for_D():
    factors, fold = image_factors(), ("D",)
    both = BidirectionalRecurrence(
        factors.forward.recurrence, factors.backward.recurrence
    )
    alpha = hidden_attention(both, fold=fold)
    assert_close(alpha, hidden_attention(factors, fold=fold), 1e-6)


def test_everything_folded_is_the_text_mixers_output():
    factors = text_factors()
    alpha = hidden_attention(factors, fold=FOLDS)
    bias = bias_output(factors)
    assert np.abs(bias).max() > 0.01  # the bias counts
    seen = jnp.einsum("bdij,bjd->bid", alpha, factors.x)
    output, _ = run_recurrence(factors.recurrence, is_gated=True)
    assert_close(seen + bias, output, 2e-6)


def test_everything_folded_is_the_image_mixers_output():
    factors, (block, x) = image_factors(), image_case()
    alpha = hidden_attention(factors, fold=FOLDS)
    seen = jnp.einsum("bdij,bjd->bid", alpha, factors.forward.x)
    output = (seen + bias_output(factors)) * factors.scale
    assert_close(x + block.mixer.out_proj(output), block(x).x, 2e-6)


def test_everything_folded_is_the_jacobian_of_the_frozen_mixer():
    """T5: forward plus flipped backward is the derivative in front of out_proj."""
    factors, (block, _) = image_factors(), image_case()
    z = jnp.asarray(factors.forward.recurrence.z)[:1]

    def mixer(x):
        forward = block.mixer.forward.select(x, z, frozen=UNIFIED)
        backward = block.mixer.backward.select(
            jnp.flip(x, 1), jnp.flip(z, 1), frozen=UNIFIED
        )
        both = BidirectionalRecurrence(forward.recurrence, backward.recurrence)
        return block.mixer.run(both, frozen=UNIFIED)[0][0] / block.mixer.scale

    jacobian = quick_jit(jax.jacrev(mixer))(factors.forward.x[:1])[:, :, 0]  # i d j d
    across = jacobian - jnp.einsum("idjd,de->idje", jacobian, jnp.eye(16))
    assert not np.any(np.abs(across) > 1e-7)  # channels do not mix
    expected = jnp.einsum("idjd->dij", jacobian)
    assert_close(hidden_attention(factors, fold=FOLDS)[0], expected, 2e-6)


def test_attention_times_u_plus_skip_is_the_scan_in_both_directions():
    factors = image_factors()
    for one in (factors.forward, factors.backward):
        alpha = hidden_attention(one.recurrence, fold=("D",))
        y = run_recurrence(one.recurrence).y
        assert_close(jnp.einsum("bdij,bjd->bid", alpha, one.recurrence.u), y, 2e-6)


def test_inner_attention_adds_up_to_hidden_attention():
    recurrence = text_factors().recurrence
    inner = inner_attention(recurrence)
    assert inner.shape == (2, 16, 3, 7, 7)
    assert_close(jnp.sum(inner, axis=2), hidden_attention(recurrence), 2e-6)
    state = recurrence._replace(
        A=recurrence.A[:, 1:2], B=recurrence.B[..., 1:2], C=recurrence.C[..., 1:2]
    )
    assert_close(inner[:, :, 1], hidden_attention(state), 2e-6)
    part = inner_attention(recurrence, channels=[2], rows=[-1])
    assert_close(part, inner[:, 2:3, :, -1:], 1e-6)


@pytest.mark.parametrize(
    ("reduction", "top"),
    [("mean", None), ("mean", 3), ("mean_abs", 3), ("product", 3)],
)
def test_reductions_of_folded_attention(reduction, top):
    factors = image_factors()
    alpha = np.asarray(hidden_attention(factors, fold=FOLDS), np.float64)
    if top is not None:
        order = np.argsort(-np.abs(alpha).sum((2, 3)), axis=1)[:, :top]
        np.testing.assert_array_equal(top_channels(factors, top, fold=FOLDS), order)
        alpha = np.take_along_axis(alpha, order[:, :, None, None], axis=1)
    change = np.abs(alpha) if reduction == "mean_abs" else alpha
    name = {"mean_abs": "mean", "product": "prod"}.get(reduction, reduction)
    expected = getattr(change, name)(axis=1)
    found = reduced_attention(
        factors, reduction, fold=FOLDS, top=top, channels_at_once=5
    )
    assert_close(found, expected, 3e-6)


def test_reduced_attention_of_two_directions_holds_no_matrix_per_channel():
    factors = image_factors()
    both = BidirectionalRecurrence(
        factors.forward.recurrence, factors.backward.recurrence
    )
    wide = jax.tree.map(lambda x: jnp.zeros((1, 64, 48), x.dtype), both.forward.u)
    one = both.forward._replace(
        u=wide, delta=wide, z=wide, A=-jnp.ones((48, 3)), D=jnp.ones(48),
        B=jnp.ones((1, 64, 1, 3)), C=jnp.ones((1, 64, 1, 3)),
    )  # fmt: skip
    run = jax.jit(lambda x: reduced_attention(x, channels_at_once=2))
    memory = run.lower(BidirectionalRecurrence(one, one)).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 48 * 64 * 64 * 4 / 4


@hypothesis.given(length=st.integers(1, 9), seed=st.integers(0, 2**16))
def test_flipping_an_image_flips_its_attention(length, seed):
    """With both directions alike, reading backwards changes nothing but the order."""
    draw = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(draw.standard_normal(shape), jnp.float32)

    recurrence = text_factors().recurrence._replace(
        u=normal(1, length, 16),
        delta=jax.nn.softplus(normal(1, length, 16)),
        B=normal(1, length, 1, 3),
        C=normal(1, length, 1, 3),
        z=normal(1, length, 16),
    )
    alpha = hidden_attention(BidirectionalRecurrence(recurrence, recurrence))
    assert_close(alpha, alpha[:, :, ::-1, ::-1], 1e-6)


def test_folding_messages():
    recurrence = text_factors().recurrence
    for fold in ("conv", ("gate", "norm")):
        with pytest.raises(ValueError, match="give some of D, silu, conv, gate"):
            hidden_attention(recurrence, fold=fold)
    with pytest.raises(ValueError, match=r"needs what is around .* give factorise\("):
        reduced_attention(recurrence, fold=("conv",))
    with pytest.raises(ValueError, match=r"how its output is gated, .* factorise\("):
        hidden_attention(recurrence, fold=("D", "gate"))
    with pytest.raises(ValueError, match="top=17: give 1 to 16"):
        reduced_attention(recurrence, top=17)
    with pytest.raises(ValueError, match="count=0: give 1 to 16"):
        top_channels(recurrence, 0)
    with pytest.raises(ValueError, match="inner_attention would return .* 3 states"):
        inner_attention(recurrence, memory_limit=10)
    with pytest.raises(
        TypeError, match="one direction, but got Bidirectional.*recurrence.fo"
    ):
        inner_attention(BidirectionalRecurrence(recurrence, recurrence))  # type: ignore[arg-type]


def test_images_are_traced_for_attention():
    model = tiny_vim()
    t = jmamba.trace(model, jnp.asarray(draw_images()), layers=[1])
    expected = factorise(model.layer(1), t.residual_in[0])
    assert isinstance(expected, BidirectionalFactors)
    assert_close(t.layer(1).backward, expected.backward.recurrence, 1e-6)
