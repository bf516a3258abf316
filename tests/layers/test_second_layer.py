"""Every analysis on a kind of layer that the package does not have; see `retention`."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import retention
from flax import nnx
from helpers import assert_close, quick_jit
from retention import RetentionConfig, RetentionLM

import jmamba
from jmamba import attention, dynamics
from jmamba.checkpoints import CheckpointError, load_orbax, save_orbax
from jmamba.generation import Decimation, prefill_decimated
from jmamba.interventions import run, zero
from jmamba.layers import MAMBA_LRP, PLACES, UNIFIED, directions_of, run_recurrence
from jmamba.models import Architecture, register

CONFIG = RetentionConfig(vocab_size=24, d_model=8, num_layers=2)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 24, (2, 7)), jnp.int32)
TARGET = 3


@pytest.fixture(scope="module")
def model():
    made = RetentionLM(CONFIG, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(made)  # larger weights than the initial ones
    return nnx.merge(graphdef, jax.tree.map(lambda x: 1.7 * x, state))


@pytest.fixture(scope="module")
def traced(model):
    return jmamba.trace(model, TOKENS)


def attention_loop(recurrence) -> np.ndarray:
    """The definition, in float64: gamma^(i-j) q_i . k_j of each head."""
    q, k, A = (
        np.asarray(x, np.float64) for x in (recurrence.C, recurrence.B, recurrence.A)
    )
    batch, length, heads, _ = q.shape
    alpha = np.zeros((batch, heads, length, length))
    for i in range(length):
        for j in range(i + 1):
            alpha[:, :, i, j] = (q[:, i] * k[:, j]).sum(-1) * np.exp(A[:, 0] * (i - j))
    return alpha


def test_the_layer_is_short():
    assert len(Path(retention.__file__).read_text().splitlines()) < 120


def test_matrices_rows_and_reductions(traced):
    recurrence = traced.layer(1)
    expected = attention_loop(recurrence)
    alpha = attention.hidden_attention(recurrence)
    assert_close(alpha, expected, 2e-6)  # a matrix per head
    heads = recurrence.u.reshape(2, 7, 2, 4)
    seen = jnp.einsum("bhij,bjhp->bihp", alpha, heads).reshape(2, 7, 8)
    assert_close(seen, run_recurrence(recurrence).y, 2e-6)
    rows = attention.hidden_attention(recurrence, rows=[2, -1], channels=[1])
    assert_close(rows, expected[:, 1:, [2, 6]], 2e-6)
    for name, reduce in {"mean": np.mean, "max": np.max, "product": np.prod}.items():
        found = attention.reduced_attention(recurrence, name)
        assert_close(found, reduce(expected, axis=1), 2e-6)
    size = attention.reduced_attention(recurrence, "mean_abs", rows=[-1])
    assert_close(size[:, 0], np.abs(expected).mean(1)[:, -1], 2e-6)
    inner = attention.inner_attention(recurrence)
    assert_close(jnp.sum(inner, axis=2), expected, 2e-6)
    assert attention.top_channels(recurrence, 1).shape == (2, 1)


def test_everything_folded_is_what_the_projection_reads(model, traced):
    block, x = model.layer(1), traced.residual_in[1]
    factors = attention.factorise(block, x)
    assert isinstance(factors, attention.Factors)
    alpha = attention.hidden_attention(factors, fold=attention.FOLDS)
    assert alpha.shape == (2, 8, 7, 7)  # the gate differs between channels
    seen = jnp.einsum("bdij,bjd->bid", alpha, factors.x)
    out = block.mixer.project_out(seen + attention.bias_output(factors))
    assert_close(x + out, block(x).x, 2e-6)
    mean = attention.reduced_attention(factors, "mean", fold=attention.FOLDS)
    assert_close(mean, jnp.mean(alpha, axis=1), 2e-6)


def test_rollout_raw_attention_and_attribution_multiply_the_loop(model, traced):
    layers = np.stack([attention_loop(traced.layer(i)).mean(1) for i in (0, 1)])
    raw = attention.raw_attention(model, TOKENS)
    assert_close(raw, layers[:, :, -1].mean(0), 2e-6)
    eye = np.eye(7)
    rolled = attention.attention_rollout(model, TOKENS)
    assert_close(rolled, ((eye + layers[1]) @ (eye + layers[0]))[:, -1], 2e-6)

    def logit(x, start):
        for i in range(start, 2):
            x = model.layer(i)(x).x
        return jnp.sum(model.unembed(x)[:, -1, TARGET])

    slopes = [jax.grad(logit)(traced.residual_out[i], i + 1).mean(-1) for i in (0, 1)]
    beta = [
        eye + np.maximum(a * s[:, None], 0) for a, s in zip(layers, slopes, strict=True)
    ]
    found = attention.mamba_attribution(model, TOKENS, target=TARGET)
    assert_close(found, (beta[1] @ beta[0])[:, -1], 1e-5)


def test_lrp_is_conserved(model):
    logits = model(TOKENS).logits[:, -1, TARGET]
    for composite in ("lrp_0", "gamma_all"):
        relevance = attention.mamba_lrp(
            model, TOKENS, target=TARGET, composite=composite
        )
        assert_close(jnp.sum(relevance, axis=1), logits, 1e-5)
    assert attention.alti_logit(model, TOKENS, target=TARGET).shape == (2, 7)


def test_token_vectors_add_up_and_the_whole_gate_is_linear(model, traced):
    block, x = model.layer(0), traced.residual_in[0]
    vectors, bias = attention.token_vectors(block, x)
    assert_close(jnp.sum(vectors, axis=2) + bias, block(x).x - x, 2e-6)
    for frozen in (UNIFIED, MAMBA_LRP):
        out, slope = jax.jvp(
            lambda x, f=frozen: block.increment(x, frozen=f), (x,), (x,)
        )
        assert_close(slope, out, 1e-5)


def test_jacobian_norms_contraction_and_exponents(model, traced):
    x = traced.residual_in[:, 0]
    for i in (0, 1):
        f = dynamics.layer_span(model, i, i + 1)
        blocks = quick_jit(lambda f, x: dynamics.token_jacobian(f, x))(f, x[i])
        norms = dynamics.jacobian_norms(f, x[i])  # by the recurrence's structure
        assert_close(norms, jnp.linalg.norm(blocks, axis=(2, 3)), 1e-5)
    diagonal = np.asarray(blocks, np.float64)[range(7), range(7)] - np.eye(8)
    expected = np.linalg.eigvalsh((diagonal + diagonal.transpose(0, 2, 1)) / 2)[:, -1]
    found = dynamics.contraction_map(model, x, steps=8).log_norms[1]
    assert_close(found, expected, 1e-4)
    stack = dynamics.layer_stack(model)
    exponents = dynamics.depth_exponents(stack, x[0], 2).exponents
    assert exponents[0] > exponents[1] and np.all(np.isfinite(exponents))
    assert_close(dynamics.run_stack(stack, x[0]), traced.residual_out[:, 0], 2e-6)
    rates = dynamics.sequence_exponents(traced.layer(0))
    assert_close(rates[0, :, 0], np.log1p(-(2.0 ** -np.array([5, 6]))), 1e-6)
    values = dynamics.path_map(model, 0, {"value"})
    assert_close(values(x[0]), traced.residual_out[0, 0], 2e-6)
    signs = dynamics.measure_signs(traced.layer(0))
    assert signs.own.shape == (2,) and np.all(signs.mean_delta == 1)
    with pytest.raises(ValueError, match="no S_B, S_C and S_delta"):
        dynamics.layer_system(model, 0)


def test_saves_and_loads_once_it_is_registered(model, tmp_path):
    register(
        Architecture(
            name="retention", model_class=RetentionLM, config_class=RetentionConfig
        )
    )
    expected = model(TOKENS).logits
    model.save_pretrained(tmp_path / "model")
    back = RetentionLM.from_pretrained(tmp_path / "model")
    assert back.config == CONFIG
    np.testing.assert_array_equal(back(TOKENS).logits, expected)
    save_orbax(model, tmp_path / "orbax")
    back = load_orbax(tmp_path / "orbax")
    np.testing.assert_array_equal(back(TOKENS).logits, expected)
    with pytest.raises(CheckpointError, match="RetentionLM"):
        jmamba.MambaLM.from_pretrained(tmp_path / "model")


def test_measures_and_decimation(model):
    measures = attention.measure_layers(model, TOKENS)
    assert measures.distance.shape == (2, 2, 2)  # layers, texts, heads
    out = prefill_decimated(
        model, TOKENS, Decimation(layers=(0,), base_length=4, min_length=2)
    )
    assert out.logits.shape == (2, 4, 24)


def test_generation_with_a_cache_and_padding(model):
    new = jmamba.generate(model, TOKENS, max_new_tokens=4).tokens
    text = TOKENS
    for step in range(4):  # without a cache
        best = jnp.argmax(model(text).logits[:, -1], axis=-1).astype(jnp.int32)
        assert best.tolist() == new[:, step].tolist()
        text = jnp.concatenate([text, best[:, None]], axis=1)
    first = model(TOKENS[:, :3])
    rest = model(TOKENS[:, 3:], cache=first.cache)
    assert_close(rest.logits, model(TOKENS).logits[:, 3:], 2e-6)
    mask = jnp.ones_like(TOKENS).at[0, :2].set(0)
    padded = model(TOKENS, attention_mask=mask).logits[0, 2:]
    assert_close(padded, model(TOKENS[:1, 2:]).logits[0], 2e-6)


def test_edits_reach_every_place(model, traced):
    x = traced.residual_in[0]

    def silent(output, layer):
        return jnp.where(layer == 1, 0, output)

    edited = model.run_layers(x, edit={"output": silent}, edits=jnp.arange(2))
    assert_close(edited.x, traced.residual_out[0], 1e-6)
    seen = []

    def look_at(place):
        def look(value, own):
            seen.append(place)
            return value

        return look

    same = model.run_layers(x, edit={place: look_at(place) for place in PLACES})
    assert_close(same.x, traced.residual_out[1], 1e-6)
    assert tuple(dict.fromkeys(seen)) == PLACES

    def put_back(recurrence, captured):
        return captured

    back = model.run_layers(x, edit={"recurrence": put_back}, edits=traced.recurrence)
    assert_close(back.x, traced.residual_out[1], 1e-6)
    assert len(directions_of(traced.layer(0))) == 1


def test_names_of_what_passes_are_those_of_any_recurrence(model):
    names = [place.name for place in model.places]
    assert {"delta", "B", "C", "z", "h", "y", "gated"} <= set(names)
    assert not {"conv", "gate", "dt"} & set(names)
    found = run(model, TOKENS, zero("B"), names=("y", "attended", "B"))
    assert not np.any(found["y"]) and not np.any(found["attended"])
    assert not np.any(found["B"])
