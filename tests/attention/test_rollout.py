"""Raw attention, rollout and Mamba-Attribution, against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_definition import (
    CLASS,
    FIRST,
    LAYERS,
    closed_form,
    gradients,
    inputs_of,
    matrices,
    model_of,
    product,
    query_of,
    scaled,
    traced,
)
from flax import nnx
from helpers import assert_close, quick_jit, selective_arrays
from random_models import random_tokens
from vision_definition import draw_images, tiny_vim

import jmamba
from jmamba.attention import (
    METHODS,
    AttentionSettings,
    attention_rollout,
    explain,
    hidden_attention,
    mamba_attribution,
    min_max,
    raw_attention,
    roll_out,
    unified_attribution,
)
from jmamba.types import BidirectionalRecurrence
from jmamba_kernels.versions import enable_x64


def released_row(recurrence, i) -> np.ndarray:
    """The released code's vector of one direction, a factor missing: (b, d, l)."""
    delta, A, B, C = selective_arrays(recurrence)
    decay = np.exp(delta[..., None] * A)
    out = np.zeros((delta.shape[0], delta.shape[2], delta.shape[1]))
    for j in range(i):
        between = decay[:, j + 1 : i].prod(1)  # k = j+1 .. i-1: not i
        own = delta[:, j, :, None] * B[:, None, j]
        out[:, :, j] = (C[:, None, i] * between * own).sum(-1)
    return out


def released_rows(kind) -> np.ndarray:
    t, i = traced(kind), query_of(kind)
    rows = []
    for number in range(LAYERS):
        recurrence = t.layer(number)
        if isinstance(recurrence, BidirectionalRecurrence):
            backward = released_row(
                recurrence.backward, recurrence.forward.u.shape[1] - 1 - i
            )
            rows.append(released_row(recurrence.forward, i) + backward[..., ::-1])
        else:
            rows.append(released_row(recurrence, i))
    return np.stack(rows)[FIRST:]


KINDS = pytest.mark.parametrize("kind", ["text", "image"])


@KINDS
def test_raw_attention_is_the_mean_row(kind):
    expected = matrices(kind)[:, :, :, query_of(kind)].mean((0, 2))
    assert_close(raw_attention(model_of(kind), inputs_of(kind)), expected, 2e-6)


@KINDS
def test_rollout_is_the_product_of_matrices(kind):
    expected = product(matrices(kind).mean(2), normalise=False)[:, query_of(kind)]
    found = attention_rollout(model_of(kind), inputs_of(kind))
    assert_close(found, expected, 2e-6)


@pytest.mark.parametrize(
    ("kind", "on", "clamp"),
    [
        ("text", "source", "product"),
        ("image", "source", "product"),
        ("image", "query", "factors"),
        ("image", "query", "none"),
        ("text", "source", "abs"),
    ],
)
def test_attribution_is_the_product_of_weighted_matrices(kind, on, clamp):
    target = 3
    g = gradients(kind, target).mean(-1)
    g = g[:, :, None, :] if on == "source" else g[:, :, :, None]
    alpha = matrices(kind)
    if clamp == "factors":
        beta = np.maximum(alpha, 0).mean(2) * np.maximum(g, 0)
    else:
        beta = alpha.mean(2) * g
        beta = np.maximum(beta, 0) if clamp == "product" else beta
        beta = np.abs(beta) if clamp == "abs" else beta
    expected = product(beta, normalise=False)[:, query_of(kind)]
    settings = AttentionSettings(gradient_on=on, clamp=clamp)
    found = mamba_attribution(
        model_of(kind), inputs_of(kind), target=target, settings=settings
    )
    assert_close(found, expected, 1e-5)


@KINDS
def test_gradient_in_front_of_a_block(kind):
    """block_in of a layer is block_out of the one before."""
    g = gradients(kind, 3).mean(-1)[:-1, :, None, :]
    beta = np.maximum(matrices(kind).mean(2)[1:] * g, 0)
    expected = product(beta, normalise=False)[:, query_of(kind)]
    settings = AttentionSettings(gradient_at="block_in", skip=1 / LAYERS)
    found = mamba_attribution(
        model_of(kind), inputs_of(kind), target=3, settings=settings
    )
    assert_close(found, expected, 1e-5)


# The released code of 2024 ------------------------------------------------------------


@KINDS
def test_released_raw_attention(kind):
    v = scaled(released_rows(kind), (2, 3))
    expected = np.maximum(v.mean((0, 2)), 0)
    found = raw_attention(model_of(kind), inputs_of(kind), settings="official_2024")
    assert_close(found, expected, 2e-6)


@KINDS
def test_released_rollout_has_its_closed_form(kind):
    a = released_rows(kind).mean(2)
    expected, own = closed_form(a)
    expected[:, query_of(kind)] += own[:, 0]
    found = attention_rollout(model_of(kind), inputs_of(kind), settings="official_2024")
    assert_close(found, np.maximum(expected, 0), 3e-6)


@KINDS
def test_released_attribution_has_its_closed_form(kind):
    m = scaled(np.maximum(released_rows(kind), 0), (2, 3)).mean(2)
    g = np.maximum(gradients(kind, 3), 0).max(-1)[FIRST:]
    a = m * scaled(g, 2)
    assert not np.any(a[-1]) or kind == "text"  # only the class token has a gradient
    expected, own = closed_form(a)
    expected[:, query_of(kind)] += own[:, 0]
    found = mamba_attribution(
        model_of(kind), inputs_of(kind), target=3, settings="official_2024"
    )
    assert_close(found, expected, 1e-5)


def test_broadcast_rollout_is_the_product_of_equal_rows():
    a = np.random.default_rng(0).uniform(0, 1, (4, 2, 5))
    T = np.broadcast_to(a[:, :, None], (4, 2, 5, 5))
    for normalise in (True, False):
        expected = product(T, normalise)[:, 2]
        start = jnp.asarray(np.eye(5, dtype=np.float32)[[2, 2]])
        rows = jnp.asarray(a, jnp.float32)
        found = roll_out(rows, start, row_normalise=normalise)
        assert_close(found, expected, 1e-6)
        whole = roll_out(jnp.asarray(T, jnp.float32), start, row_normalise=normalise)
        assert_close(whole, expected, 1e-6)
    assert_close(closed_form(a)[0][:, 0], product(T, True)[:, 2, 0], 1e-12)


def test_released_row_lacks_the_querys_decay_and_weight():
    row = released_rows("image")[0]
    exact = matrices("image")[FIRST, :, :, CLASS]
    assert not np.any(row[:, :, CLASS]) and np.any(exact[:, :, CLASS])
    ratio = exact[:, :, :CLASS] / row[:, :, :CLASS]
    assert np.ptp(ratio, axis=1).max() > 0.01  # no common scale


# Queries, targets, batches ------------------------------------------------------------

ROLLOUTS = ("raw_attention", "attention_rollout", "mamba_attribution")


@pytest.mark.parametrize(
    ("kind", "method", "settings"),
    [
        ("text", "raw_attention", "paper"),
        ("image", "attention_rollout", "official_2024"),
        ("text", "mamba_attribution", "official_2024"),
        ("image", "mamba_attribution", "paper"),
    ],
)
def test_a_batch_with_own_queries_and_targets_is_each_alone(kind, method, settings):
    run, model, inputs = METHODS[method], model_of(kind), inputs_of(kind)
    together = run(model, inputs, target=[3, 1], query=[0, -2], settings=settings)
    alike = inputs[::-1]  # the other sample, asked the same
    swapped = run(model, alike, target=[1, 3], query=[-2, 0], settings=settings)
    assert_close(together, swapped[::-1], 1e-5)
    if settings == "paper":
        alone = run(model, inputs[1:], target=1, query=-2, settings=settings)
        assert_close(together[1:], alone, 1e-5)


@pytest.mark.parametrize("method", ["mamba_attribution", "mamba_lrp"])
def test_the_predicted_class_is_the_default_target(method):
    model, images = tiny_vim(layers=LAYERS), inputs_of("image")
    best = jnp.argmax(model(images), axis=-1)
    found = METHODS[method](model, images)
    assert_close(found, METHODS[method](model, images, target=best), 1e-6)


@pytest.mark.parametrize("method", [*ROLLOUTS, "mamba_lrp"])
def test_texts_do_not_depend_on_what_comes_after_the_query(method):
    model, tokens = model_of("text"), random_tokens()
    later = tokens.at[:, 4:].set(0)
    run = METHODS[method]
    first = run(model, tokens, query=3, target=2)
    again = run(model, later, query=3, target=2)
    assert_close(first[:, :4], again[:, :4], 1e-5)
    assert not np.any(first[:, 4:])


def test_models_without_class_token_take_the_mean_row():
    model = tiny_vim(class_token="none", layers=2)
    images = jnp.asarray(draw_images())
    t = jmamba.trace(model, images)
    alpha = np.stack([hidden_attention(t.layer(i)) for i in range(2)]).astype(float)
    assert_close(raw_attention(model, images), alpha.mean((0, 2, 3)), 2e-6)
    expected = product(alpha.mean(2), normalise=False).mean(1)
    assert_close(attention_rollout(model, images), expected, 2e-6)
    one = attention_rollout(model, images, query=3)
    assert_close(one, product(alpha.mean(2), normalise=False)[:, 3], 2e-6)
    with pytest.raises(ValueError, match="need a query, as the model has no class"):
        raw_attention(model, images, settings="official_2024")


@pytest.mark.parametrize("method", ROLLOUTS)
def test_constant_maps_and_zero_gradients_stay_finite(method):
    graphdef, state = nnx.split(model_of("image"))
    still = nnx.merge(graphdef, jax.tree.map(jnp.zeros_like, state))
    images = jnp.asarray(draw_images())
    found = METHODS[method](still, images, settings="official_2024")
    assert bool(jnp.all(jnp.isfinite(found)))
    assert bool(jnp.all(min_max(jnp.ones((2, 3))) == 0))


def test_explanations_are_differentiable_through_attention():
    """T14, against differences in float64."""
    with enable_x64():
        model = tiny_vim(dtype="float64")
        graphdef, state = nnx.split(model)
        images = jnp.asarray(draw_images(), jnp.float64)
        draw = np.random.default_rng(0)
        way = jax.tree.map(lambda x: jnp.asarray(draw.standard_normal(x.shape)), state)

        def focus(step):
            moved = jax.tree.map(lambda x, d: x + step * d, state, way)
            found = attention_rollout(nnx.merge(graphdef, moved), images)
            return jnp.sum(jnp.sin(found))

        slope = quick_jit(jax.grad(focus))(0.0)
        value = quick_jit(focus)
        difference = (value(1e-5) - value(-1e-5)) / 2e-5
        assert abs(slope) > 1e-4
        assert_close(slope, difference, 1e-6)


def test_rollout_messages():
    model, tokens = model_of("text"), random_tokens()
    with pytest.raises(ValueError, match="Unknown settings 'new': give paper, offic"):
        attention_rollout(model, tokens, settings="new")
    with pytest.raises(ValueError, match="query=7 is out of range: give -7 to 6"):
        raw_attention(model, tokens, query=7)
    with pytest.raises(ValueError, match=r"target=\[0, 24\] is out of range: give 0"):
        mamba_attribution(model, tokens, target=[0, 24])
    with pytest.raises(ValueError, match="one integer, or one for each of 2 samples"):
        mamba_attribution(model, tokens, target=[1, 2, 3])
    with pytest.raises(ValueError, match="target=0.5: give one integer"):
        mamba_attribution(model, tokens, target=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="are of single rows"):
        AttentionSettings(exact=False)
    with pytest.raises(ValueError, match="all rows are one"):
        AttentionSettings(rows="query", gradient_on="query")
    with pytest.raises(ValueError, match=r"clamp='max': give one of product, factors"):
        AttentionSettings(clamp="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="skip=1: give a part of the layers"):
        AttentionSettings(skip=1)
    with pytest.raises(ValueError, match="discard=-0.1: give a part of the weights"):
        AttentionSettings(discard=-0.1)
    with pytest.raises(ValueError, match=r"fold='conv': give some of D, silu, conv"):
        AttentionSettings(fold="conv")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"released for the recurrence alone"):
        AttentionSettings(rows="query", exact=False, fold=("gate",))
    with pytest.raises(ValueError, match="product of channels has no sign of its own"):
        AttentionSettings(channels="product", clamp="factors")
    with pytest.raises(ValueError, match="'paper' fold nothing into attention: give"):
        unified_attribution(model, tokens, settings="paper")


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_are_not_finite_are_refused(method):
    graphdef, state = nnx.split(model_of("text"))
    broken = nnx.merge(graphdef, jax.tree.map(lambda x: x * jnp.nan, state))
    with pytest.raises(ValueError, match="The model's weights hold values that are no"):
        explain(broken, inputs_of("text"), method)
