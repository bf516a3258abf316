"""Rules of MambaLRP with a gamma: definition, conservation, and what they reduce to."""

from functools import cache
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, quick_jit
from hypothesis import strategies as st
from random_models import random_text_model, random_tokens
from vision_definition import draw_images, tiny_vim

from jmamba.attention import (
    COMPOSITES,
    Gammas,
    explain,
    mamba_lrp,
    patch_grid,
    pixel_lrp,
)
from jmamba.attention.relevance.gamma_rule import gamma_rule
from jmamba.attention.relevance.lrp import choose_rules
from jmamba.layers.freezing import NOTHING, Frozen, call_linear

KINDS = pytest.mark.parametrize("kind", ["text", "image"])
TARGET = 3


def without(model, *names):
    """Return a model whose parameters of these names are 0."""
    graphdef, state = nnx.split(model)

    def drop(path, x):
        gone = any(f"'{name}'" in jax.tree_util.keystr(path) for name in names)
        return jnp.zeros_like(x) if gone else x

    return nnx.merge(graphdef, jax.tree.map_with_path(drop, state))


@cache
def model_of(kind) -> Any:
    model = tiny_vim() if kind == "image" else random_text_model(layers=2)
    return without(model, "bias")


def inputs_of(kind):
    return jnp.asarray(draw_images()) if kind == "image" else random_tokens()


def rule_by_hand(x, w, b, R, gamma):
    """The rule's shares, term by term: x_i w_i and b of every output, in float64."""
    relevance, of_bias = np.zeros(len(x)), np.zeros(len(b))
    for k in range(len(b)):
        terms = np.append(x * w[:, k], b[k])
        z = terms.sum()
        if z == 0:
            continue
        agree = terms > 0 if z > 0 else terms < 0
        shares = terms + gamma * np.where(agree, terms, 0)
        shares = shares * R[k] / shares.sum()
        relevance += shares[:-1]
        of_bias[k] = shares[-1]
    return relevance, of_bias


@hypothesis.given(
    seed=st.integers(0, 2**16), gamma=st.sampled_from([0.0, 0.1, 0.25, 5.0])
)
def test_gamma_rule_is_its_definition(seed, gamma):
    draw = np.random.default_rng(seed)
    x, w, b, slope = (draw.standard_normal(s) for s in (5, (5, 3), 3, 3))
    x[0], w[:, 2], b[2] = 0, 0, 0  # an input and an output of 0

    def linear(x, b):
        z, magnitude = x @ w32 + b, jnp.abs(x) @ jnp.abs(w32) + jnp.abs(b)
        return gamma_rule(z, magnitude, gamma)

    x32, w32, b32, slope32 = (jnp.asarray(v, jnp.float32) for v in (x, w, b, slope))
    z, pull = jax.vjp(linear, x32, b32)
    assert_close(z, x @ w + b, 1e-6)
    d_x, d_b = pull(slope32)
    relevance, of_bias = rule_by_hand(x, w, b, (x @ w + b) * slope, gamma)
    assert_close(x32 * d_x, relevance, 2e-5)
    assert_close(b32 * d_b, of_bias, 2e-5)


def test_gamma_rule_is_finite_where_nothing_is():
    zeros = jnp.zeros(3)
    z, slope = jax.value_and_grad(lambda x: jnp.sum(gamma_rule(x, abs(x), 0.25)))(zeros)
    assert z == 0 and not np.any(np.isnan(slope))


@pytest.mark.parametrize("make", ["linear", "conv"])
def test_linear_layers_keep_their_values_under_the_rule(make):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 6, 3)), jnp.float32)
    rngs = nnx.Rngs(0)
    if make == "linear":
        layer = nnx.Linear(3, 4, rngs=rngs)
    else:
        layer = nnx.Conv(3, 4, (2, 2), strides=2, padding="VALID", rngs=rngs)
    graphdef, state = nnx.split(layer)
    state: Any = state
    state["bias"] = state["bias"].replace(jnp.array([0.3, -0.2, 0.1, 0.0]))

    def through(x, state, gamma=0.25):
        rules = Frozen(linear=Gammas(conv=gamma))
        return call_linear(nnx.merge(graphdef, state), x, "conv", rules)

    z, pull = jax.vjp(through, x, state)
    assert_close(z, through(x, state, 0.0), 1e-7)
    d_x, d_state = pull(jnp.cos(z))
    of_bias = jnp.sum(state["bias"][...] * d_state["bias"][...])
    assert_close(jnp.sum(x * d_x) + of_bias, jnp.sum(z * jnp.cos(z)), 1e-5)


@KINDS
@pytest.mark.parametrize("composite", ["gamma_conv", "gamma_all"])
def test_relevance_is_conserved_by_composites(kind, composite):
    model, inputs = model_of(kind), inputs_of(kind)
    found = mamba_lrp(model, inputs, target=TARGET, composite=composite)
    logits = model(inputs)
    logits = logits if kind == "image" else logits.logits[:, -1]
    assert_close(jnp.sum(found, axis=1), logits[:, TARGET], 1e-5)
    plain = mamba_lrp(model, inputs, target=TARGET)
    assert np.abs(found - plain).max() > 1e-3 * np.abs(plain).max()


def test_composites_without_gamma_are_the_plain_rule():
    model, inputs = model_of("image"), inputs_of("image")
    plain = mamba_lrp(model, inputs, target=TARGET)
    found = mamba_lrp(model, inputs, target=TARGET, composite=Gammas())
    np.testing.assert_array_equal(found, plain)
    tiny = mamba_lrp(
        model, inputs, target=TARGET, composite=Gammas(1e-5, 1e-5, 1e-5, 1e-5)
    )
    assert_close(tiny, plain, 1e-3)
    named = explain(model, inputs, "mamba_lrp", target=TARGET, composite="lrp_0")
    np.testing.assert_array_equal(named, plain)


@KINDS
def test_forward_passes_under_the_rule_have_the_same_values(kind):
    model, inputs = model_of(kind), inputs_of(kind)
    x = model.embed(inputs)
    rules = choose_rules("gamma_all")

    @quick_jit
    def run(x):
        return [model.run_layers(x, frozen=f).x for f in (NOTHING, rules)]

    plain, ruled = run(x)
    assert_close(ruled, plain, 1e-6)


def test_relevance_of_pixels_is_that_of_their_patches():
    """Without biases and places all of a patch's relevance comes from its pixels."""
    model = without(model_of("image"), "position", "class_token")
    images = inputs_of("image")
    pixels = pixel_lrp(model, images, target=TARGET, composite="gamma_all")
    tokens = mamba_lrp(model, images, target=TARGET, composite="gamma_all")
    patches = pixels.reshape(2, 3, 4, 3, 4).sum((2, 4))
    assert_close(patches, patch_grid(model, tokens, 12, 12), 1e-5)
    assert COMPOSITES["gamma_all"].patch > 0


def test_lrp_messages():
    model, tokens = model_of("text"), inputs_of("text")
    with pytest.raises(ValueError, match="Unknown composite 'epsilon': give lrp_0, ga"):
        mamba_lrp(model, tokens, composite="epsilon")
    with pytest.raises(ValueError, match="conv=-1.0: give a gamma of at least 0"):
        Gammas(conv=-1.0)
    with pytest.raises(TypeError, match="pixel_lrp needs a Vim, but got MambaLM"):
        pixel_lrp(model, tokens)
