"""The model under JAX's transforms, in other precisions, and compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, relative_error
from tiny_models import (
    KINDS,
    random_tokens,
    remake,
    skeleton,
    tiny_config,
    tiny_model,
)

from jmamba import MambaConfig, MambaLM, generate
from jmamba.models.language_model import _forward
from jmamba.models.texts import Texts
from jmamba_kernels.versions import enable_x64

pytestmark = pytest.mark.usefixtures("optimised_programs")

SENSITIVE = ("A_log", "D", "dt_bias")


def loss(model, tokens):
    logits = jax.nn.log_softmax(model(tokens[:, :-1]).logits)
    return -jnp.mean(jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1))


@nnx.jit
def gradients(model, tokens):
    return nnx.grad(loss)(model, tokens)


def test_model_within_jit():
    model, tokens = tiny_model(), random_tokens(2, 5)
    inside = nnx.jit(lambda model, tokens: model(tokens))(model, tokens)
    assert_close(inside, model(tokens), 1e-6)


def test_model_gradients_equal_differences():
    with enable_x64():
        model = in_float64(tiny_model("falcon"))
        tokens = random_tokens(2, 5)
        graphdef, state = nnx.split(model)
        draw = np.random.default_rng(0)
        direction = jax.tree.map(
            lambda x: jnp.asarray(draw.standard_normal(x.shape)), state
        )
        grads = gradients(model, tokens)
        products = jax.tree.map(lambda g, d: jnp.sum(g * d), grads, direction)
        slope = sum(jax.tree.leaves(products))

        def moved(step):
            state_moved = jax.tree.map(lambda x, d: x + step * d, state, direction)
            return loss(nnx.merge(graphdef, state_moved), tokens)

        assert_close(slope, (moved(1e-5) - moved(-1e-5)) / 2e-5, 1e-7)


def test_models_vmapped_equal_each():
    models = [tiny_model(seed=seed) for seed in range(3)]
    tokens = random_tokens(2, 5)
    graphdef, _ = nnx.split(models[0])
    states = jax.tree.map(lambda *x: jnp.stack(x), *map(nnx.state, models))
    stacked = nnx.merge(graphdef, states)
    together = nnx.vmap(lambda model, tokens: model(tokens), in_axes=(0, None))
    out = nnx.jit(together)(stacked, tokens)
    for i, model in enumerate(models):
        assert_close(jax.tree.map(lambda x, i=i: x[i], out), model(tokens), 1e-5)


# Precision ----------------------------------------------------------------------------


def in_float64(model: MambaLM) -> MambaLM:
    return remake(model, dtype=jnp.float64, param_dtype=jnp.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_model_in_float32_is_near_float64(kind):
    narrow, tokens = tiny_model(kind), random_tokens(2, 9)
    with enable_x64():
        wide = in_float64(narrow)(tokens)
        assert {x.dtype.name for x in jax.tree.leaves(wide)} == {"float64"}
    assert_close(narrow(tokens), wide, 1e-5)


def test_generate_in_float64():
    narrow, tokens = tiny_model("falcon", seed=3), random_tokens(2, 5)
    with enable_x64():
        tokens_wide = generate(in_float64(narrow), tokens, max_new_tokens=5).tokens
    expected = generate(narrow, tokens, max_new_tokens=5).tokens
    np.testing.assert_array_equal(tokens_wide, expected)


@pytest.mark.parametrize(
    ("kind", "param_dtype"), [("mamba", "bfloat16"), ("falcon", "float32")]
)
def test_model_in_bfloat16_is_near_float32(kind, param_dtype):
    model, tokens = tiny_model(kind), random_tokens(2, 9)
    options = {"dtype": jnp.bfloat16, "param_dtype": jnp.dtype(param_dtype)}
    half = remake(model, **options)
    out = half(tokens)
    assert out.logits.dtype == jnp.float32
    assert jax.tree.leaves(out.cache)[0].dtype == jnp.bfloat16
    assert out.cache.ssm_state.dtype == jnp.float32
    # bfloat16 keeps 8 bits: 2^-8 for each of a handful of roundings on the way
    assert relative_error(out.logits, model(tokens).logits) < 3e-2
    step = half(tokens[:, :1], cache=out.cache)
    assert bool(jnp.all(jnp.isfinite(step.logits)))


def test_model_in_bfloat16_has_finite_gradients():
    model = remake(tiny_model(), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    for x in jax.tree.leaves(gradients(model, random_tokens(2, 9))):
        assert bool(jnp.all(jnp.isfinite(x))) and bool(jnp.any(x != 0))


def test_model_keeps_sensitive_parameters_in_float32():
    model = skeleton(tiny_config(), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    for path, x in jax.tree.leaves_with_path(nnx.to_pure_dict(nnx.state(model))):
        expected = jnp.float32 if path[-1].key in SENSITIVE else jnp.bfloat16
        assert x.dtype == expected, jax.tree_util.keystr(path)


# Compilation --------------------------------------------------------------------------


def test_remat_changes_memory_not_gradients():
    def compiled(remat):
        graphdef, state = nnx.split(remake(tiny_model(num_layers=8), remat=remat))

        def run(state, tokens):
            return jax.grad(lambda s: loss(nnx.merge(graphdef, s), tokens))(state)

        tokens = random_tokens(2, 65)
        program = jax.jit(run).lower(state, tokens).compile()
        memory = program.memory_analysis()
        assert memory is not None
        return program(state, tokens), memory.temp_size_in_bytes

    (plain, plain_bytes), (remat, remat_bytes) = compiled(False), compiled(True)
    assert_close(remat, plain, 1e-5)
    assert remat_bytes < 0.6 * plain_bytes


def lowered(config: MambaConfig):
    """Lower the model on 64 tokens without making any weights."""
    tokens = jax.ShapeDtypeStruct((1, 64), jnp.int32)
    return _forward.lower(*nnx.split(skeleton(config)), Texts(tokens), None)  # type: ignore[arg-type]


def test_program_does_not_grow_with_depth():
    def lines(num_layers):
        return lowered(tiny_config(num_layers=num_layers)).as_text().count("\n")

    assert lines(2) == lines(8)


def test_program_does_not_grow_with_size():
    small, large = (
        lowered(MambaConfig.named(f"mamba-{size}")).as_text()
        for size in ("130m", "2.8b")
    )
    assert small.count("\n") == large.count("\n")
    assert len(large) < 1.1 * len(small)  # no constant grows, either
