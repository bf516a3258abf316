"""Programs of models as files, and as tables."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_models import random_tokens, remake, tiny_model

import jmamba
from jmamba.generation import Decimation, prefill_decimated


def reading(model, tokens):
    return model(tokens)


def going_on(model, tokens):
    read = model(tokens)
    return model(tokens, cache=read.cache)


def generating(model, tokens):
    return jmamba.generate(model, tokens, max_new_tokens=2)


def looking(model, tokens):
    return jmamba.trace(model, tokens)


def decimating(model, tokens):
    return prefill_decimated(model, tokens, Decimation((1,), 3, min_length=1))


@pytest.mark.parametrize("call", [reading, going_on, generating, looking, decimating])
def test_programs_are_exported_and_come_back(call):
    model, tokens = tiny_model(), random_tokens(2, 4)
    program = jax.export.export(jax.jit(lambda tokens: call(model, tokens)))(tokens)
    back = jax.export.deserialize(program.serialize())
    found = back.call(tokens)
    expected = call(model, tokens)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


def test_exported_step_takes_what_generation_returned():
    model, tokens = tiny_model(), random_tokens(2, 4)
    new = jmamba.generate(model, tokens, max_new_tokens=3)

    def go_on(cache):
        return jmamba.generate(model, None, cache=cache, max_new_tokens=3)

    program = jax.export.export(jax.jit(go_on))(new).serialize()
    found: Any = jax.export.deserialize(program).call(new)
    np.testing.assert_array_equal(found.tokens, go_on(new).tokens)


# Tables -------------------------------------------------------------------------------


def test_table_of_a_model_and_the_model_after_it():
    model, tokens = remake(tiny_model()), random_tokens(1, 3)
    expected = model(tokens).logits
    table = nnx.tabulate(model, tokens, console_kwargs={"width": 200})
    for part in ("MambaLM", "layers/mixer/in_proj", "norm_f", "ssm_state"):
        assert part in table
    chex.assert_trees_all_equal(model(tokens).logits, expected)
    assert jmamba.MambaLM(model.config, rngs=nnx.Rngs(0))(tokens).logits.shape


def test_table_of_an_image_model():
    config = jmamba.VimConfig(
        d_model=8, num_layers=1, num_classes=3, image_size=16, patch_size=8
    )
    model, image = jmamba.Vim(config, rngs=nnx.Rngs(0)), jnp.ones((1, 16, 16, 3))
    expected = model(image)
    assert "patch_embed" in nnx.tabulate(
        model, image, console_kwargs={"width": 200}
    ).replace("…", "")
    chex.assert_trees_all_equal(model(image), expected)


def test_mistake_in_a_table_leaves_classes_whole():
    model, tokens = remake(tiny_model()), random_tokens(1, 3)
    for _ in range(2):
        with pytest.raises(ValueError, match="tokens must be integers"):
            nnx.tabulate(model, jnp.ones((1, 3)))
    linear = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    assert linear(jnp.ones((1, 2))).shape == (1, 2)
    assert model(tokens).logits.shape == (1, 3, 24)
    assert "MambaLM" in nnx.tabulate(model, tokens)
