"""Choices of explanations by attention, each against its definition in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from attention_definition import (
    CLASS,
    FIRST,
    closed_form,
    gradients,
    inputs_of,
    matrices,
    model_of,
    product,
    query_of,
    scaled,
)
from helpers import assert_close
from vision_definition import draw_images, tiny_vim

import jmamba
from jmamba.attention import (
    FOLDS,
    AttentionSettings,
    attention_rollout,
    discard_lowest,
    factorise,
    hidden_attention,
    mamba_attribution,
    raw_attention,
    unified_attribution,
)

OVER = {"mean": np.mean, "max": np.max, "min": np.min, "product": np.prod}


def discard(matrix, part, causal):
    """Zero the lowest entries of one matrix, one after the other."""
    kept = matrix.copy()
    seen = [place for place in np.ndindex(matrix.shape)
            if not causal or place[-1] <= place[-2]]  # fmt: skip
    seen.sort(key=lambda place: matrix[place])
    for place in seen[: int(part * len(seen) + 1e-9)]:
        kept[place] = 0
    return kept


@pytest.mark.parametrize(
    ("kind", "channels", "part"),
    [
        ("image", "max", 0.0),
        ("text", "min", 0.0),
        ("image", "product", 0.0),
        ("image", "mean", 0.4),
        ("text", "mean", 0.8),
    ],
)
def test_rollout_of_other_reductions(kind, channels, part):
    """Table 5: over channels, and with the lowest weights discarded."""
    alpha = OVER[channels](matrices(kind), axis=2)
    for s, b in np.ndindex(alpha.shape[:2]):
        alpha[s, b] = discard(alpha[s, b], part, causal=kind == "text")
    expected = product(alpha, normalise=False)[:, query_of(kind)]
    settings = AttentionSettings(channels=channels, discard=part)
    found = attention_rollout(model_of(kind), inputs_of(kind), settings=settings)
    assert_close(found, expected, 3e-6)


@pytest.mark.parametrize(("kind", "query"), [("text", 3), ("image", 4)])
def test_lowest_weights_of_a_row_are_discarded(kind, query):
    rows = matrices(kind)[:, :, :, query].max(2)
    expected = np.zeros(rows.shape[1:])
    seen = query + 1 if kind == "text" else rows.shape[-1]
    for s, b in np.ndindex(rows.shape[:2]):
        row = rows[s, b]
        row[np.argsort(row[:seen])[: seen // 2]] = 0
        expected[b] += row / len(rows)
    settings = AttentionSettings(channels="max", discard=0.5)
    found = raw_attention(
        model_of(kind), inputs_of(kind), query=query, settings=settings
    )
    assert_close(found, expected, 3e-6)


def test_discarding_counts_in_each_sample():
    x = jnp.array([[1.0, 2.0, 3.0, 4.0], [9.0, 7.0, 8.0, 5.0]])
    counted = jnp.array([[True] * 4, [True, True, False, False]])
    found = discard_lowest(x, 0.5, counted)
    assert found.tolist() == [[0, 0, 3, 4], [9, 0, 8, 5]]
    assert discard_lowest(x, 0.0, counted).tolist() == x.tolist()


@pytest.mark.parametrize("clamp", ["product", "factors"])
def test_attribution_of_the_greatest_channel(clamp):
    g = gradients("image", 3).mean(-1)[:, :, None, :]
    alpha = matrices("image").max(2)
    beta = np.maximum(alpha * g, 0)
    if clamp == "factors":
        beta = np.maximum(matrices("image"), 0).max(2) * np.maximum(g, 0)
    expected = product(beta, normalise=False)[:, CLASS]
    settings = AttentionSettings(channels="max", clamp=clamp)
    found = mamba_attribution(
        model_of("image"), inputs_of("image"), target=3, settings=settings
    )
    assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_gradient_at_the_gated_output(kind):
    """What the projection makes of y adds to the stream behind the block."""
    model, behind = model_of(kind), gradients(kind, 3)
    weights = []
    for i, g in enumerate(behind):
        kernel = np.asarray(model.layer(i).mixer.out_proj.kernel[...], np.float64)
        half = 0.5 if kind == "image" else 1.0
        weights.append((half * g @ kernel.T).mean(-1))
    beta = np.maximum(matrices(kind).mean(2) * np.stack(weights)[:, :, None], 0)
    expected = product(beta, normalise=False)[:, query_of(kind)]
    settings = AttentionSettings(gradient_at="gated_y")
    found = mamba_attribution(model, inputs_of(kind), target=3, settings=settings)
    assert_close(found, expected, 1e-5)


# Unified attention --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "image"])
def test_unified_attribution_is_the_product_of_weighted_matrices(kind):
    g = gradients(kind, 3).mean(-1)[:, :, None, :]
    beta = np.maximum(matrices(kind, FOLDS).mean(2) * g, 0)
    expected = product(beta, normalise=False)[:, query_of(kind)]
    found = unified_attribution(model_of(kind), inputs_of(kind), target=3)
    assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("fold", [("D", "gate"), ("silu", "conv", "gate")])
def test_rollout_and_raw_attention_fold_as_told(fold):
    settings = AttentionSettings(fold=fold)
    model, images = model_of("image"), inputs_of("image")
    alpha = matrices("image", fold)
    expected = product(alpha.mean(2), normalise=False)[:, CLASS]
    assert_close(attention_rollout(model, images, settings=settings), expected, 3e-6)
    expected = alpha[:, :, :, CLASS].mean((0, 2))
    assert_close(raw_attention(model, images, settings=settings), expected, 3e-6)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_released_unified_attribution_has_its_closed_form(kind):
    """Section 5.2: rows scaled behind the gradient's weights, the query's included."""
    rows = matrices(kind, ("silu", "conv", "gate"))[FIRST:, :, :, query_of(kind)]
    g = np.maximum(gradients(kind, 3), 0).max(-1)[FIRST:]
    a = scaled(np.maximum(rows, 0).mean(2) * scaled(g, 2), 2)
    expected, own = closed_form(a)
    expected[:, query_of(kind)] += own[:, 0]
    found = unified_attribution(
        model_of(kind), inputs_of(kind), target=3, settings="official_2025"
    )
    assert_close(found, expected, 1e-5)


def test_unified_attention_without_class_token_is_the_mean_row():
    model = tiny_vim(class_token="none", layers=2)
    images = jnp.asarray(draw_images())
    t = jmamba.trace(model, images)
    factors = [factorise(model.layer(i), t.residual_in[i]) for i in (0, 1)]
    rows = [hidden_attention(one, fold=("gate",)).mean((1, 2)) for one in factors]
    settings = AttentionSettings(fold=("gate",))
    found = raw_attention(model, images, settings=settings)
    assert_close(found, (rows[0] + rows[1]) / 2, 3e-6)
