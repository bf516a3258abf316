"""Products that read a layer's weights where those of all layers lie."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jmamba
from jmamba.layers.in_place import LayerWeights, is_read_in_place, multiply_row

LAYERS, SIZE, WIDTH = 3, 70, 1100
TOLERANCE = {"float32": 2e-6, "bfloat16": 1e-2}


def draw(size=SIZE, dtype="float32"):
    normal = np.random.default_rng(0).standard_normal
    x = jnp.asarray(normal(size), dtype)
    return x, jnp.asarray(normal((LAYERS, size, WIDTH)) * size**-0.5, dtype)


# less than a step, steps, a step and a rest, several and a rest
@pytest.mark.parametrize("size", [3, 118, SIZE, 200])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_rows_add_up_to_the_product(size, dtype):
    x, stacked = draw(size, dtype)
    expected = np.asarray(x, np.float64) @ np.asarray(stacked[1], np.float64)
    y = jax.jit(multiply_row)(x, stacked, jnp.asarray(1))
    assert y.dtype == dtype
    bound = TOLERANCE[dtype]
    np.testing.assert_allclose(np.float64(y), expected, rtol=bound, atol=bound)


TRANSFORMS = {
    "grad": lambda f, x, W: jax.grad(f)(x, W),
    "grad of weights": lambda f, x, W: jax.grad(f, argnums=1)(x, W),
    "jvp": lambda f, x, W: jax.jvp(f, (x, W), (x, W))[1],
    "hessian": lambda f, x, W: jax.hessian(f)(x, W),
    "vmap": lambda f, x, W: jax.vmap(f, (0, None))(jnp.stack([x, 2 * x]), W),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_products_have_every_derivative(name):
    x, stacked = draw()
    layer = jnp.asarray(2)

    def plain(x, stacked):
        return jnp.sum(jnp.sin(jnp.matmul(x, stacked[2], precision="highest")))

    def ours(x, stacked):
        return jnp.sum(jnp.sin(multiply_row(x, stacked, layer)))

    found, expected = (TRANSFORMS[name](f, x, stacked) for f in (ours, plain))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        found,
        expected,
    )


def test_untaken_weights_are_the_matrix_where_they_are_asked_for():
    _, stacked = draw()
    weights = LayerWeights(stacked, jnp.asarray(1))
    np.testing.assert_array_equal(weights[...], stacked[1])
    np.testing.assert_array_equal(weights[2:4, 5], stacked[1, 2:4, 5])


CONFIG: dict[str, Any] = {"vocab_size": 40, "d_model": 128, "num_layers": 3}


def make_model(kind=jmamba.MambaLM, config=jmamba.MambaConfig, dtype="float32"):
    dtypes = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(dtype)}
    return kind(config(**CONFIG), rngs=nnx.Rngs(0), **dtypes)


TOKENS = jnp.asarray(np.random.default_rng(0).integers(1, 40, (1, 9)))


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (jmamba.MambaLM, jmamba.MambaConfig),
        (jmamba.Mamba2LM, jmamba.Mamba2Config),
    ],
)
def test_one_token_is_what_it_is_among_others(kind, config):
    model = make_model(kind, config)
    assert is_read_in_place(*model.layers.mixer.in_proj.kernel.shape[1:])
    whole = model(TOKENS)
    before = model(TOKENS[:, :-1])
    last = model(TOKENS[:, -1:], cache=before.cache)
    np.testing.assert_allclose(
        last.logits[:, 0], whole.logits[:, -1], rtol=1e-5, atol=1e-5
    )
    bare = jmamba.generate(model, TOKENS, max_new_tokens=3)
    rows = jmamba.generate(model, jnp.tile(TOKENS, (2, 1)), max_new_tokens=3)
    np.testing.assert_array_equal(bare.tokens[0], rows.tokens[0])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_no_layer_is_copied_or_widened_for_a_token(dtype, optimised_programs):
    model = make_model(dtype=dtype)
    graphdef, state = nnx.split(model)

    def run(state, tokens):
        out = jmamba.generate(
            nnx.merge(graphdef, state), tokens, max_new_tokens=4, stop_tokens=()
        )
        return out.tokens

    text = jax.jit(run).lower(state, TOKENS[:, :1]).compile().as_text() or ""
    size_in, size_out = model.layers.mixer.in_proj.kernel.shape[1:]
    layer, table = (size_in, size_out), (CONFIG["num_layers"] * size_in, size_out)
    copied = re.findall(rf"= \w+\[(?:1,)?{layer[0]},{layer[1]}\]", text)
    widened = re.findall(rf"= f32\[(?:3,)?(?:{layer[0]}|{table[0]}),{size_out}\]", text)
    assert not copied
    assert dtype == "float32" or not widened
