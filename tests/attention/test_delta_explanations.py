"""Explanations through gated delta nets."""

from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from random_models import (
    random_delta_model,
    random_hybrid_model,
    random_qwen_model,
    random_tokens,
)

import jmamba
from jmamba import attention, dynamics, interventions
from jmamba.layers import states_after
from jmamba.report.size import size_of
from jmamba.types import GatedRecurrence

TOKENS = random_tokens()
TARGET = 3


@cache
def traced():
    return jmamba.trace(random_delta_model(), TOKENS)


@pytest.mark.parametrize("index", [0, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_matrices_and_token_vectors_of_a_layer_add_up(index):
    block, x = random_delta_model().layer(index), traced().residual_in[index]
    recurrence = traced().layer(index)
    assert isinstance(recurrence, GatedRecurrence)
    alpha = attention.hidden_attention(recurrence)
    assert alpha.shape == (2, 4, 7, 7)
    y, last = block.mixer.recur(recurrence)
    seen = jnp.einsum("bhij,bjhp->bihp", alpha, recurrence.values)
    assert_close(seen.reshape(y.shape), y, 2e-6)
    assert_close(states_after(recurrence, jnp.array([6]))[:, 0], last, 2e-6)
    rows = attention.hidden_attention(recurrence, rows=[-1, 2], channels=[3, 0])
    chosen = alpha[:, jnp.array([3, 0])][:, :, jnp.array([-1, 2])]
    assert_close(rows, chosen, 2e-6)
    vectors, bias = attention.token_vectors(block, x)
    assert_close(jnp.sum(vectors, axis=2), block(x).x - x, 5e-6)
    assert_close(1 + bias, jnp.ones_like(bias), 2e-6)


@pytest.mark.exhaustive
def test_maps_are_made_of_all_layers_alike():
    layers = [traced().layer(i) for i in range(3)]
    means = [np.asarray(attention.reduced_attention(one, "mean")) for one in layers]
    raw = attention.raw_attention(random_delta_model(), TOKENS)
    assert_close(raw, np.mean([m[:, -1] for m in means], axis=0), 2e-6)
    rolled = np.eye(7)
    for mean in means:
        rolled = (np.eye(7) + mean) @ rolled
    found = attention.attention_rollout(random_delta_model(), TOKENS)
    assert_close(found, rolled[:, -1], 5e-6)
    relevance = attention.mamba_attribution(random_delta_model(), TOKENS, target=TARGET)
    assert relevance.shape == (2, 7) and float(relevance.min()) >= 0


@pytest.mark.parametrize(
    ("make", "composite"),
    [
        (random_delta_model, "lrp_0"),
        (random_qwen_model, "lrp_0"),
        pytest.param(random_delta_model, "gamma_all", marks=pytest.mark.exhaustive),
    ],
)
def test_relevance_is_conserved(make, composite):
    """There are no biases: relevances add up to the logit."""
    logits = make()(TOKENS).logits[:, -1, TARGET]
    relevance = attention.mamba_lrp(make(), TOKENS, target=TARGET, composite=composite)
    assert_close(jnp.sum(relevance, axis=1), logits, 1e-5)


@pytest.mark.exhaustive
def test_token_vectors_of_gated_attention_add_up():
    layer, x = random_qwen_model().layer(1), random_qwen_model().embed(TOKENS)
    vectors, _ = attention.token_vectors(layer, x)
    assert_close(jnp.sum(vectors, axis=2), layer(x).x - x, 5e-6)


def test_states_and_places_of_a_layer():
    model = random_delta_model()
    inside = jmamba.trace(model, TOKENS, layers=[0, 2], states=[-1, 1])
    assert inside.states.shape == (2, 2, 2, 8, 3)
    short = model(TOKENS[:, :2]).cache.parts[0].ssm_state
    assert_close(inside.states[0, :, 1], short[0], 2e-6)
    assert_close(
        inside.states[0, :, 0], model(TOKENS).cache.parts[0].ssm_state[0], 2e-6
    )
    x = model.embed(TOKENS)
    seen = []

    def note(value, own):
        seen.append(value.shape)
        return 0 * value

    passed = model.run_layers(x, edit={"beta": note}, read=lambda b, x, out: out.x)
    assert seen == [(2, 7, 4)] * 2  # nothing is written, and so nothing is read
    block = model.layer(0)
    assert_close(passed.found[0], block.add(x, jnp.zeros_like(x)), 2e-6)
    size = size_of(model)
    assert (size.layers, size.channels, size.states) == (3, 8, 2 * 8 * 3)
    kept = interventions.capture(model, TOKENS)
    added = kept["output"] + kept["feed_forward.output"]
    assert_close(kept["residual_in"] + added, kept["residual_out"], 2e-6)


@pytest.mark.exhaustive
def test_jacobians_go_through_a_layer():
    f, x = (
        dynamics.layer_span(random_delta_model(), 0, 1),
        traced().residual_in[0, 0],
    )
    norms = jnp.sqrt(jnp.sum(dynamics.token_jacobian(f, x) ** 2, axis=(2, 3)))
    assert_close(dynamics.jacobian_norms(f, x), norms, 1e-5)


def test_what_there_is_not_is_said():
    model = random_delta_model(layer_kinds=("delta",) * 3)
    block, stream = model.layer(0), model.embed(TOKENS)
    with pytest.raises(ValueError, match="projects to GatedRecurrence, which has no f"):
        attention.factorise(block, stream)
    recurrence = block.project(stream).recurrence
    with pytest.raises(ValueError, match="around a gated recurrence is no part of its"):
        attention.hidden_attention(recurrence, fold=("gate",))
    with pytest.raises(
        ValueError, match=r"layers \[0, 1, 2\] of this OlmoHybridLM era"
    ):
        dynamics.report_regimes(model, TOKENS)
    with pytest.raises(ValueError, match="there are no S_B, S_C and S_delta"):
        dynamics.layer_system(model, 0)
    with pytest.raises(ValueError, match="this block projects to GatedRecurrence"):
        dynamics.path_map(model, 0, {"value"})(stream[0])
    token = jnp.array([[3]])
    with pytest.raises(ValueError, match="the cache is of another model"):
        model(token, cache=random_hybrid_model().empty_cache(1))
