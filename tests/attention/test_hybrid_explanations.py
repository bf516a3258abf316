"""Explanations through models of several kinds of layers."""

from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from random_models import random_hybrid_model, random_parallel_model, random_tokens

import jmamba
from jmamba import attention, dynamics, interventions
from jmamba.attention.relevance.settings import AttentionSettings
from jmamba.checkpoints import ByteTokenizer
from jmamba.generation import Decimation, prefill_decimated
from jmamba.layers import SoftmaxAttention
from jmamba.report.dynamics.measure import measure_dynamics
from jmamba.report.size import size_of
from jmamba.types import ByRun

TOKENS = random_tokens()
TARGET = 3


@cache
def model():
    return random_hybrid_model(use_conv_bias=False)


@cache
def traced():
    return jmamba.trace(model(), TOKENS)


def test_trace_holds_each_kind_of_layer():
    inside = traced()
    assert isinstance(inside.recurrence, ByRun)
    kinds = [isinstance(inside.layer(i), SoftmaxAttention) for i in range(3)]
    assert kinds == [False, False, True]
    some = jmamba.trace(model(), TOKENS, layers=[1, 2])
    assert_close(some.layer(1).delta, inside.layer(1).delta, 2e-6)
    assert_close(some.residual_out, inside.residual_out[jnp.array([1, 2])], 2e-6)
    recurrent = jmamba.trace(model(), TOKENS, layers=[0, 1], states=[-1])
    assert recurrent.states.shape == (2, 2, 1, 16, 3)
    with pytest.raises(
        ValueError, match=r"Layers \[2\] hold softmax .* layers=\[0, 1\]"
    ):
        jmamba.trace(model(), TOKENS, states=[-1])


def test_matrices_and_token_vectors_of_each_layer_add_up():
    for index in (1, 2):
        block, x = model().layer(index), traced().residual_in[index]
        recurrence = traced().layer(index)
        alpha = attention.hidden_attention(recurrence)
        y = block.mixer.recur(recurrence).y
        values = getattr(recurrence, "values", None)
        if values is None:
            heads = recurrence.u.reshape(2, 7, 4, 4)
        else:
            heads = jnp.repeat(values, 2, axis=2)
        seen = jnp.einsum("bhij,bjhp->bihp", alpha, heads)
        seen = seen.reshape(y.shape)
        if values is None:
            seen = seen + recurrence.D[None, None] * recurrence.u
        assert_close(seen, y, 2e-6)
        vectors, bias = attention.token_vectors(block, x)
        assert_close(jnp.sum(vectors, axis=2), block(x).x - x, 5e-6)
        assert_close(1 + bias, jnp.ones_like(bias), 2e-6)


def test_maps_are_made_of_all_layers_alike():
    layers = [traced().layer(i) for i in range(3)]
    means = [np.asarray(attention.reduced_attention(one, "mean")) for one in layers]
    raw = attention.raw_attention(model(), TOKENS)
    assert_close(raw, np.mean([m[:, -1] for m in means], axis=0), 2e-6)
    rolled = np.eye(7)
    for mean in means:
        rolled = (np.eye(7) + mean) @ rolled
    found = attention.attention_rollout(model(), TOKENS)
    assert_close(found, rolled[:, -1], 5e-6)
    relevance = attention.mamba_attribution(model(), TOKENS, target=TARGET)
    assert relevance.shape == (2, 7) and float(relevance.min()) >= 0
    inside = AttentionSettings(gradient_at="gated_y")
    with pytest.raises(ValueError, match="behind these are feed-forward layers"):
        attention.mamba_attribution(model(), TOKENS, settings=inside)


def test_relevance_is_conserved():
    """Without biases relevances add up to the logit, its divisor included."""
    logits = model()(TOKENS).logits[:, -1, TARGET]
    for explain in (attention.mamba_lrp, attention.alti_logit):
        relevance = explain(model(), TOKENS, target=TARGET)
        assert_close(jnp.sum(relevance, axis=1), logits, 1e-5)


def test_what_all_layers_have_is_captured_and_edited():
    kept = interventions.capture(model(), TOKENS)
    assert kept["feed_forward.output"].shape == (3, 2, 7, 8)
    added = 0.7 * (kept["output"] + kept["feed_forward.output"])
    assert_close(kept["residual_in"] + added, kept["residual_out"], 2e-6)
    zeros = [
        interventions.zero(name, layers=[2])
        for name in ("output", "feed_forward.output")
    ]
    found = interventions.run(model(), TOKENS, zeros, names="residual_out")
    assert_close(found["residual_out"][2], kept["residual_out"][1], 2e-6)
    with pytest.raises(ValueError, match="Only some layers of this model have 'delta'"):
        interventions.run(model(), TOKENS, interventions.zero("delta"))


def test_the_walk_edits_what_one_kind_has_of_its_own():
    x = model().embed(TOKENS)
    passed = model().run_layers(
        x, edit={"values": lambda values, own: 0 * values}, read=lambda b, x, out: out.x
    )
    plain = traced().residual_out
    assert_close(passed.found[:2], plain[:2], 2e-6)
    block = model().layer(2)
    without = block.add(plain[1], jnp.zeros_like(plain[1]))
    assert_close(passed.found[2], without, 2e-6)
    with pytest.raises(ValueError, match="There is no place 'value' to edit or read"):
        model().run_layers(x, show=["value"])


def test_measures_keep_kinds_apart():
    averages = attention.average_layers(model(), [TOKENS])
    assert averages.row.shape == (3, 7)
    assert [part.shape for part in averages.distance.parts] == [(2, 4), (1, 2)]
    size = size_of(model())
    assert (size.layers, size.channels, size.states) == (3, 16, 2 * 16 * 3)


@pytest.mark.parametrize("index", [1, 2])
def test_jacobians_see_the_feed_forward_layer(index):
    f, x = (
        dynamics.layer_span(model(), index, index + 1),
        traced().residual_in[index, 0],
    )
    norms = jnp.sqrt(jnp.sum(dynamics.token_jacobian(f, x) ** 2, axis=(2, 3)))
    assert_close(dynamics.jacobian_norms(f, x), norms, 1e-5)


def test_analyses_of_recurrences_say_so():
    tokens, stream = TOKENS[0], traced().residual_in[:, 0]
    calls = {
        "contraction_map": lambda: dynamics.contraction_map(model(), stream, steps=4),
        "state_map": lambda: dynamics.state_map(model(), tokens),
        "report_regimes": lambda: dynamics.report_regimes(model(), TOKENS),
        "prefill_decimated": lambda: prefill_decimated(
            model(), TOKENS, Decimation(layers=(1,))
        ),
        "The report on dynamics": lambda: measure_dynamics(
            model(), ByteTokenizer(), "text"
        ),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=rf"{name} is of .* layers \[2\] of this"):
            call()
    with pytest.raises(ValueError, match="there are no S_B, S_C and S_delta"):
        dynamics.layer_system(model(), 2)
    with pytest.raises(ValueError, match="but this block projects to SoftmaxAttention"):
        dynamics.path_map(model(), 2, {"value"})(stream[2])
    whole = dynamics.path_map(model(), 0, dynamics.PATHS)(stream[0])
    assert_close(whole, traced().residual_out[0, 0], 2e-6)
    with pytest.raises(ValueError, match="layers of one kind, but these are of 2"):
        dynamics.layer_stack(model())


def test_mixers_side_by_side_have_the_matrices_of_both():
    made = random_parallel_model(use_conv_bias=False)
    inside = jmamba.trace(made, TOKENS)
    both, block = inside.layer(1), made.layer(1)
    alpha = attention.hidden_attention(both)
    assert alpha.shape == (2, 4 + 2, 7, 7)
    y, _ = block.mixer.attention.run(both.attention)
    seen = jnp.einsum("bhij,bjhp->bihp", alpha[:, 4:], both.attention.values)
    assert_close(seen.reshape(y.shape), y, 2e-6)
    chosen = attention.hidden_attention(both, channels=[5, 0], rows=[-1])
    assert_close(chosen, alpha[:, jnp.array([5, 0])][:, :, -1:], 2e-6)
    for name, reduce in {"mean": np.mean, "max": np.max}.items():
        found = attention.reduced_attention(both, name)
        assert_close(found, reduce(np.asarray(alpha), axis=1), 2e-6)
    with pytest.raises(ValueError, match="top=2: this layer is a recurrence and atten"):
        attention.reduced_attention(both, top=2)
    raw = attention.raw_attention(made, TOKENS)
    last = [attention.reduced_attention(inside.layer(i), "mean")[:, -1] for i in (0, 1)]
    assert_close(raw, (last[0] + last[1]) / 2, 2e-6)
    relevance = attention.unified_attribution(made, TOKENS, target=TARGET)
    assert relevance.shape == (2, 7)


def test_relevance_is_conserved_through_mixers_side_by_side():
    made = random_parallel_model(use_conv_bias=False)
    relevance = attention.mamba_lrp(made, TOKENS, target=TARGET, composite="gamma_all")
    logits = made(TOKENS).logits[:, -1, TARGET]
    assert_close(jnp.sum(relevance, axis=1), logits, 1e-5)
    block, x = made.layer(0), made.embed(TOKENS)
    vectors, _ = attention.token_vectors(block, x)
    assert_close(jnp.sum(vectors, axis=2), block(x).x - x, 5e-6)
    found = []
    edit = {
        "attention.values": lambda values, own: found.append(values.shape) or values
    }
    made.run_layers(x, edit=edit)
    assert found == [(2, 7, 2, 4)]
    with pytest.raises(ValueError, match="edit or read 'recurrent.y' or 'attention.y'"):
        made.run_layers(x, edit={"y": lambda y, own: y})
    with pytest.raises(TypeError, match="take mixer.recurrent or mixer.attention"):
        block.mixer.recur(block.project(x).recurrence)


@pytest.mark.parametrize("name", ["delta", "values", "blocks.1.delta"])
def test_places_of_some_layers_are_said(name):
    short = name.rpartition(".")[2]
    with pytest.raises(ValueError, match=f"Only some layers .* have '{short}'.*show="):
        interventions.capture(model(), random_tokens(), [name])
    with pytest.raises(ValueError, match="Nothing is called 'nowhere'"):
        interventions.capture(model(), random_tokens(), ["nowhere"])
