"""Weights in 8 bits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jmamba
from jmamba.embedded.text import FOLDER, load_embedded
from jmamba.files.errors import CheckpointError
from jmamba.layers.int8 import Int8Weights, round_weights, value_of
from jmamba.models.quantisation import is_quantised
from jmamba.surgery import quantise

TOKENS = jnp.asarray(np.random.default_rng(0).integers(1, 40, (1, 9)))


def make_model(**changes):
    sizes: dict[str, Any] = {"vocab_size": 40, "d_model": 128, "num_layers": 3}
    return jmamba.MambaLM(jmamba.MambaConfig(**sizes | changes), rngs=nnx.Rngs(0))


def as_float(model):
    """Return the model whose weights are the rounded ones, in float32."""
    graphdef, state = nnx.split(model)
    is_rounded = lambda x: isinstance(x, Int8Weights)  # noqa: E731
    widened = jax.tree.map(
        lambda x: x[...] if is_rounded(x) else x, state, is_leaf=is_rounded
    )
    return nnx.merge(graphdef, widened)


def test_weights_are_off_by_half_a_step():
    W = jnp.asarray(np.random.default_rng(0).standard_normal((3, 20, 7)), jnp.float32)
    rounded = round_weights(W.at[1, :, 2].set(0), inputs=-2)
    assert rounded.values.dtype == jnp.int8
    error = jnp.abs(rounded[...] - W.at[1, :, 2].set(0))
    assert bool(jnp.all(error <= 0.5001 * rounded.steps))
    assert rounded.shape == W.shape
    np.testing.assert_array_equal(rounded.look_up(jnp.array([2]))[0], rounded[...][2])


@pytest.mark.parametrize("is_tied", [True, False])
def test_model_computes_what_its_rounded_weights_say(is_tied):
    model = make_model(tie_embeddings=is_tied)
    small = quantise(model)
    assert is_quantised(small)
    assert not is_quantised(model)
    wide = as_float(small)
    out, expected = small(TOKENS), wide(TOKENS)
    np.testing.assert_allclose(out.logits, expected.logits, rtol=1e-4, atol=1e-5)
    last = small(TOKENS[:, -1:], cache=small(TOKENS[:, :-1]).cache).logits[:, 0]
    np.testing.assert_allclose(last, expected.logits[:, -1], rtol=1e-4, atol=1e-5)
    new, same = (
        jmamba.generate(one, TOKENS, max_new_tokens=4).tokens for one in (small, wide)
    )
    np.testing.assert_array_equal(new, same)


def test_derivatives_are_those_of_the_rounded_weights():
    small = quantise(make_model())
    wide = as_float(small)

    def slope(model):
        graphdef, state = nnx.split(model)

        def run(x):
            walked = nnx.merge(graphdef, state).run_layers(x)
            return jnp.sum(jnp.sin(walked.x))

        return jax.grad(run)(model.embed(TOKENS))

    np.testing.assert_allclose(slope(small), slope(wide), rtol=1e-3, atol=1e-5)


def test_weights_in_8_bits_are_loaded_and_not_saved(tmp_path):
    model, _ = load_embedded(weights="int8")
    assert is_quantised(model)
    assert isinstance(value_of(model.layers.mixer.in_proj.kernel), Int8Weights)
    with pytest.raises(CheckpointError, match="in 8 bits"):
        model.save_pretrained(tmp_path / "new", tokenizer="bytes")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="give 'int8'"):
        jmamba.MambaLM.from_pretrained(FOLDER, weights="int4")
    with pytest.raises(ValueError, match="for one device"):
        jmamba.MambaLM.from_pretrained(
            FOLDER, weights="int8", sharding=jmamba.Sharding(data=8)
        )


def test_explanations_go_through_weights_in_8_bits():
    from jmamba.attention import mamba_lrp

    small = quantise(make_model())
    found, expected = (mamba_lrp(one, TOKENS) for one in (small, as_float(small)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5),
        found,
        expected,
    )
