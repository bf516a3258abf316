"""Mamba-2's layer through the seam: its own numbers, attention, relevance, dynamics."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, quick_jit
from random_models import random_mamba2_model, random_tokens

import jmamba
from jmamba import attention, dynamics
from jmamba.layers import MAMBA_LRP, UNIFIED, Precision, run_recurrence
from jmamba.layers.mamba2 import Mamba2Mixer
from jmamba.layers.sizes import HeadSizes
from jmamba.types import Recurrence
from jmamba_kernels.versions import enable_x64

TOKENS = random_tokens()
TARGET = 3


@cache
def model():
    return random_mamba2_model()


@cache
def traced():
    return jmamba.trace(model(), TOKENS)


def wave(start, *shape):
    """Return sin(start + 0.7 i), i the index in C order, in float64."""
    return np.sin(start + 0.7 * np.arange(np.prod(shape))).reshape(shape)


NORMS = {
    (1, False): 24.1898921239,
    (2, False): 26.5744413124,
    (1, True): 9.78626244026,
    (2, True): 9.78746398446,
}


@pytest.mark.parametrize(("groups", "before"), NORMS)
def test_gated_norm_has_the_golden_numbers(groups, before):
    length, heads, width, n = 6, 2, 3, 4
    with enable_x64():
        one_group = (1, length, 1, n)
        recurrence = Recurrence(
            u=jnp.asarray(wave(0.1, 1, length, heads * width)),
            delta=jax.nn.softplus(jnp.asarray(wave(0.4, 1, length, heads))),
            A=jnp.array([[-1.0], [-4.0]]),
            B=jnp.asarray(wave(0.2, *one_group)),
            C=jnp.asarray(wave(0.3, *one_group)),
            D=jnp.repeat(jnp.array([0.5, 1.5]), width),
            z=jnp.asarray(wave(0.5, 1, length, heads * width)),
        )
        sizes = HeadSizes(
            d_model=3,
            num_layers=1,
            d_state=n,
            head_width=width,
            num_groups=groups,
            norm_before_gate=before,
        )
        double = jnp.dtype("float64")
        mixer = Mamba2Mixer(
            sizes, precision=Precision(double, double), rngs=nnx.Rngs(0)
        )
        assert mixer.norm is not None
        mixer.norm.scale[...] = jnp.asarray(1 + 0.1 * wave(0.6, heads * width))
        out, _ = mixer.run(recurrence)
        alpha = attention.hidden_attention(recurrence)
        total = float(np.asarray(out).sum())
    np.testing.assert_allclose(alpha[0, 0, 5, 0], 0.00365269252606, rtol=1e-11)
    np.testing.assert_allclose(alpha[0, 1, 5, 4], -0.00894803294009, rtol=1e-11)
    np.testing.assert_allclose(total, NORMS[groups, before], rtol=1e-11)


def test_matrices_are_those_of_heads():
    recurrence = traced().layer(1)
    alpha = attention.hidden_attention(recurrence)
    assert alpha.shape == (2, 4, 7, 7)
    u = recurrence.u.reshape(2, 7, 4, 4)
    y = jnp.einsum("bhij,bjhp->bihp", alpha, u).reshape(2, 7, 16)
    assert recurrence.D is not None
    y = y + recurrence.D[None, None] * recurrence.u
    assert_close(y, run_recurrence(recurrence).y, 2e-6)
    rows = attention.hidden_attention(recurrence, rows=[2, -1], channels=[1])
    assert_close(rows, alpha[:, 1:2, jnp.array([2, 6])], 2e-6)
    for name, reduce in {"mean": np.mean, "max": np.max}.items():
        found = attention.reduced_attention(recurrence, name)
        assert_close(found, reduce(np.asarray(alpha), axis=1), 2e-6)


@pytest.mark.parametrize("before", [False, True])
def test_everything_folded_is_what_the_projection_reads(before):
    """The gate is one diagonal, norm and gate together, in either order."""
    made = random_mamba2_model(norm_before_gate=before)
    block, x = made.layer(1), traced().residual_in[1]
    factors = attention.factorise(block, x)
    assert isinstance(factors, attention.Factors)
    alpha = attention.hidden_attention(factors, fold=attention.FOLDS)
    assert alpha.shape == (2, 16, 7, 7)  # the gate differs between channels
    seen = jnp.einsum("bdij,bjd->bid", alpha, factors.x)
    out = block.mixer.project_out(seen + attention.bias_output(factors))
    assert_close(x + out, block(x).x, 2e-6)


def test_rollout_raw_attention_and_attribution():
    layers = [traced().layer(i) for i in (0, 1)]
    means = [np.asarray(attention.reduced_attention(one, "mean")) for one in layers]
    raw = attention.raw_attention(model(), TOKENS)
    assert_close(raw, np.mean([m[:, -1] for m in means], axis=0), 2e-6)
    eye = np.eye(7)
    rolled = attention.attention_rollout(model(), TOKENS)
    assert_close(rolled, ((eye + means[1]) @ (eye + means[0]))[:, -1], 2e-6)
    found = attention.mamba_attribution(model(), TOKENS, target=TARGET)
    assert found.shape == (2, 7) and float(found.min()) >= 0


@pytest.mark.parametrize("before", [False, True])
def test_relevance_is_conserved(before):
    """Without biases relevances add up to the logit, through either order of norms."""
    made = random_mamba2_model(use_conv_bias=False, norm_before_gate=before)
    logits = made(TOKENS).logits[:, -1, TARGET]
    composites = ("lrp_0",) if before else ("lrp_0", "gamma_all")
    for composite in composites:
        relevance = attention.mamba_lrp(
            made, TOKENS, target=TARGET, composite=composite
        )
        assert_close(jnp.sum(relevance, axis=1), logits, 1e-5)


def test_frozen_layers_are_linear_and_token_vectors_add_up():
    block, x = model().layer(0), traced().residual_in[0]
    vectors, bias = attention.token_vectors(block, x)
    assert_close(jnp.sum(vectors, axis=2) + bias, block(x).x - x, 2e-6)
    free = random_mamba2_model(use_conv_bias=False).layer(0)
    for frozen in (UNIFIED, MAMBA_LRP):
        out, slope = jax.jvp(
            lambda x, f=frozen: free.increment(x, frozen=f), (x,), (x,)
        )
        assert_close(slope, out, 1e-5)
    assert attention.alti_logit(model(), TOKENS, target=TARGET).shape == (2, 7)


def test_jacobians_contraction_and_exponents():
    x = traced().residual_in[:, 0]
    f = dynamics.layer_span(model(), 1, 2)
    blocks = quick_jit(lambda f, x: dynamics.token_jacobian(f, x))(f, x[1])
    norms = dynamics.jacobian_norms(f, x[1])  # by the recurrence's structure
    assert_close(norms, jnp.linalg.norm(blocks, axis=(2, 3)), 1e-5)
    diagonal = np.asarray(blocks, np.float64)[range(7), range(7)] - np.eye(8)
    expected = np.linalg.eigvalsh((diagonal + diagonal.transpose(0, 2, 1)) / 2)[:, -1]
    found = dynamics.contraction_map(model(), x, steps=8).log_norms[1]
    assert_close(found, expected, 1e-4)
    stack = dynamics.layer_stack(model())
    exponents = dynamics.depth_exponents(stack, x[0], 2).exponents
    assert exponents[0] > exponents[1] and np.all(np.isfinite(exponents))
    rates = dynamics.sequence_exponents(traced().layer(0))
    recurrence = traced().layer(0)
    mean = jnp.mean(recurrence.delta, axis=1) * recurrence.A[None, :, 0]
    assert_close(rates[:, :, 0], mean, 1e-5)


def test_regimes_are_those_of_the_text_alone():
    """B and C are no linear maps of u, so that the weights have no S_C^T S_B."""
    report = dynamics.report_regimes(model(), TOKENS)
    assert report.right is report.radius is report.positive_mass is None
    assert report.as_table().split()[:3] == ["layer", "own", "earlier"]
    delta = traced().recurrence.delta
    assert_close(report.mean_delta, jnp.mean(delta, axis=(1, 2, 3)), 1e-6)


def test_text_with_padding_or_beside_another_is_as_alone():
    made = random_mamba2_model(dt_limit=(0.2, 1.0))  # padding is below the limit
    alone = made(TOKENS[:1, 2:]).logits[0]
    mask = jnp.ones_like(TOKENS).at[0, :2].set(0)
    padded = made(TOKENS, attention_mask=mask)
    assert_close(padded.logits[0, 2:], alone, 2e-6)
    packed = jnp.concatenate([TOKENS[1:], TOKENS[:1, 2:]], axis=1)
    ids = jnp.where(jnp.arange(12) < 7, 0, 1)[None]
    both = made(packed, segment_ids=ids)
    assert_close(both.logits[0, 7:], alone, 2e-6)
    right = jnp.roll(TOKENS, -2, axis=1)  # the cache, whatever side padding is on
    on_right = made(right, attention_mask=jnp.roll(mask, -2, axis=1))
    first = jax.tree.map(lambda v: v[:, :1], (padded.cache, on_right.cache))
    assert_close(first[0], first[1], 2e-6)


def test_generation_with_a_cache():
    new = jmamba.generate(model(), TOKENS, max_new_tokens=3).tokens
    text = TOKENS
    for step in range(3):  # without a cache
        best = jnp.argmax(model()(text).logits[:, -1], axis=-1).astype(jnp.int32)
        assert best.tolist() == new[:, step].tolist()
        text = jnp.concatenate([text, best[:, None]], axis=1)
    with pytest.raises(ValueError, match="cache is of another model"):
        model()(TOKENS, cache=random_mamba2_model(num_groups=1)(TOKENS).cache)


def test_bfloat16_is_near_float32():
    half = random_mamba2_model(dtype="bfloat16")
    wide = random_mamba2_model()
    state = jax.tree.map(lambda x: x.astype(jnp.float32), nnx.state(half))
    nnx.update(wide := nnx.clone(wide), state)
    assert half.layers.mixer.A_log.dtype == jnp.float32
    assert_close(half(TOKENS).logits, wide(TOKENS).logits, 3e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_width": 5}, "head_width=5 must divide the 16 channels"),
        ({"num_groups": 3}, "num_groups=3 must divide the 4 heads"),
        ({"dt_limit": (1.0, 0.5)}, r"least and the greatest step size, but is \(1.0"),
        ({"d_state": 0}, "d_state must be an integer from 1"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        random_mamba2_model(**changes)
