"""Layers of experts against the sum over all of them."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, quick_jit
from random_models import random_hybrid_model, random_tokens

from jmamba import GraniteConfig, attention
from jmamba.layers.dispatch import dispatch_tokens, read_blocks, sum_choices
from jmamba.layers.experts import ExpertLayer, ExpertSizes
from jmamba.layers.norm import Precision, RMSNorm
from jmamba_kernels.versions import enable_x64

m = 6


def layer(count=5, per_token=2, is_renormalised=False, is_fused=False) -> ExpertLayer:
    precision = Precision(jnp.dtype("float64"), jnp.dtype("float64"))
    return ExpertLayer(
        ExpertSizes(count, per_token, 4, is_renormalised),
        RMSNorm(m, eps=1e-5, precision=precision),
        d_model=m,
        is_fused=is_fused,
        precision=precision,
        rngs=nnx.Rngs(0),
    )


def by_definition(made: ExpertLayer, x):
    """Return the sum over all experts, those that do not count weighing nothing."""
    n = made.norm(x)
    p = jax.nn.softmax(made.router(n))
    least = jnp.sort(p, axis=-1)[..., -made.sizes.per_token][..., None]
    p = jnp.where(p >= least, p, 0)
    if made.sizes.is_renormalised:
        p = p / p.sum(-1, keepdims=True)
    own = made.experts
    if made.is_fused:
        gate, up = jnp.split(own.gate_up[...], 2, axis=-1)
    else:
        gate, up = own.gate_proj[...], own.up_proj[...]
    inside = jax.nn.silu(jnp.einsum("blm,emf->blef", n, gate))
    inside = inside * jnp.einsum("blm,emf->blef", n, up)
    return jnp.einsum("blef,efm,ble->blm", inside, own.down_proj[...], p)


@pytest.mark.parametrize(
    "choices", [{}, {"is_renormalised": True, "per_token": 3, "is_fused": True}]
)
def test_experts_are_the_sum_over_all(choices):
    with enable_x64():
        made = layer(**choices)
        x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 7, m)))
        graphdef, state = nnx.split(made)

        def measure(f, state, x):
            return jnp.sum(jnp.sin(f(nnx.merge(graphdef, state), x)))

        def derivatives(f):
            def slope(state, x):
                return jax.grad(lambda x: measure(f, state, x))(x)[0, :2].sum()

            value, slopes = jax.value_and_grad(
                lambda state, x: measure(f, state, x) + slope(state, x), argnums=(0, 1)
            )(state, x)
            forward = jax.jacfwd(lambda c: f(nnx.merge(graphdef, state), x * c))(1.0)
            return value, slopes, forward

        one = quick_jit(lambda: derivatives(lambda made, x: made(x)))()
        other = quick_jit(lambda: derivatives(by_definition))()
        jax.tree.map(lambda x, y: assert_close(x, y, 1e-11), one, other)


@pytest.mark.parametrize("tokens", [1, 3, 40])
@pytest.mark.parametrize("favourite", [None, 2])
def test_no_token_is_left_out(tokens, favourite):
    draw = np.random.default_rng(tokens)
    choices = np.stack([draw.permutation(6)[:2] for _ in range(tokens)])
    if favourite is not None:
        choices = np.tile([[favourite, 5]], (tokens, 1))
    found = dispatch_tokens(jnp.asarray(choices), 6)
    x = jnp.arange(1.0, tokens + 1)[:, None]
    blocks = read_blocks(x, found)
    assert found.token.size <= 4 * tokens + 12
    marks = 100.0 * np.asarray(found.expert)[:, None, None]
    marked = blocks + jnp.asarray(marks, jnp.float32)
    each = np.asarray(marked).reshape(-1)[np.asarray(found.place)]
    np.testing.assert_array_equal(each, np.asarray(x) + 100.0 * choices)
    total = sum_choices(marked, jnp.ones((tokens, 2)), found)
    np.testing.assert_allclose(total[:, 0], np.asarray(each).sum(1))


@cache
def model():
    return random_hybrid_model(
        use_conv_bias=False,
        layer_kinds=("mamba_experts", "mamba", "attention_experts"),
        num_experts=4,
        renormalise_experts=True,
        share_experts=True,
        d_expert=5,
    )


@pytest.mark.parametrize(
    "composite", ["lrp_0", pytest.param("gamma_all", marks=pytest.mark.exhaustive)]
)
def test_relevance_is_conserved_through_experts(composite):
    tokens = random_tokens()
    logits = model()(tokens).logits[:, -1, 3]
    relevance = attention.mamba_lrp(model(), tokens, target=3, composite=composite)
    assert_close(jnp.sum(relevance, axis=1), logits, 1e-5)


@pytest.mark.exhaustive
def test_token_vectors_and_gradients_go_through_experts():
    tokens = random_tokens()
    block, x = model().layer(0), model().embed(tokens)
    vectors, bias = attention.token_vectors(block, x)
    assert_close(jnp.sum(vectors, axis=2) + bias, block(x).x - x, 5e-6)
    ordinary = attention.gradient_x_input(model(), tokens, target=3)
    assert bool(jnp.isfinite(ordinary).all())


def test_experts_pass_where_they_can_be_edited():
    seen = []

    def first_only(weights, own):
        seen.append(weights.shape)
        return weights.at[..., 1:].set(0)

    x = model().embed(random_tokens())
    model().run_layers(x, edit={"feed_forward.weights": first_only})
    assert seen == [(2, 7, 2)] * 2


def test_impossible_experts_are_said():
    with pytest.raises(ValueError, match="these are 0, 4 and 2"):
        GraniteConfig(
            vocab_size=9, d_model=8, num_layers=1, head_width=4, d_feed_forward=4,
            layer_kinds=("mamba_experts",),
        )  # fmt: skip
