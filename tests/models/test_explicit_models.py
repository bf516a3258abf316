"""Models, generation and training on meshes whose axes are part of types."""

import contextlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from random_models import random_text_model, random_tokens

from jmamba import Vim, VimConfig
from jmamba.generation import Sampling, generate
from jmamba.training.config import TrainConfig
from jmamba.training.language import next_token_loss
from jmamba.training.loop import fit

MESH = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
SURROUNDINGS = {
    "mesh set": lambda: jax.set_mesh(MESH),
    "no mesh set": contextlib.nullcontext,
}
CHANNELS = {  # which axis of a parameter the channels are
    "in_proj": 2, "weight": 1, "bias": 1, "x_proj": 1, "dt_proj": 2, "dt_bias": 1,
    "A_log": 1, "D": 1, "out_proj": 1,
}  # fmt: skip


def put(x, *spec):
    return jax.device_put(x, NamedSharding(MESH, P(*spec)))


def place(model):
    """Return a model whose channels and vocabulary lie over y."""

    def place_one(path, x):
        keys = [getattr(key, "key", None) for key in path]
        if "embedding" in keys:
            return put(x, "y")
        axis = next((CHANNELS[key] for key in keys if key in CHANNELS), None)
        return put(x, *([None] * (axis or 0)), None if axis is None else "y")

    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, jax.tree.map_with_path(place_one, state))


MODEL, TOKENS = random_text_model(layers=2), random_tokens(4, 8)
PLACED, PLACED_TOKENS = place(MODEL), put(TOKENS, "x")


def spec_of(x):
    spec = tuple(x.sharding.spec)
    return spec + (None,) * (x.ndim - len(spec))


def specs(tree):
    return list(map(spec_of, jax.tree.leaves(tree)))


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_model_reads_typed_tokens(surroundings):
    mask = jnp.ones(TOKENS.shape, bool).at[0, :3].set(False)
    with SURROUNDINGS[surroundings]():
        first = PLACED(PLACED_TOKENS)
        then = PLACED(PLACED_TOKENS, cache=first.cache, attention_mask=put(mask, "x"))
    expected = MODEL(TOKENS)
    assert_close(tuple(first), tuple(expected), 1e-5)
    again = MODEL(TOKENS, cache=expected.cache, attention_mask=mask)
    assert_close(tuple(then), tuple(again), 1e-5)
    for out in first, then:
        assert spec_of(out.logits) == ("x", None, "y")
        assert spec_of(out.cache.conv_state)[:3] == (None, "x", "y")
        assert spec_of(out.cache.ssm_state)[:3] == (None, "x", "y")


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_generation_goes_on_from_typed_tokens(surroundings):
    draw = partial(generate, max_new_tokens=3, key=jax.random.key(0),
                   sampling=Sampling(temperature=0.7, top_k=5))  # fmt: skip
    with SURROUNDINGS[surroundings]():
        found = draw(PLACED, PLACED_TOKENS)
    expected = draw(MODEL, TOKENS)
    assert np.array_equal(found.tokens, expected.tokens)
    assert spec_of(found.tokens) == ("x", None)


def test_training_leaves_parameters_where_they_lie():
    config = TrainConfig(steps=2, batch=4, length=7, warmup=1)
    fitted = fit(PLACED, next_token_loss, lambda step: PLACED_TOKENS, config)
    expected = fit(MODEL, next_token_loss, lambda step: TOKENS, config)
    assert specs(nnx.state(fitted)) == specs(nnx.state(PLACED))
    assert_close(fitted.embedding[...], expected.embedding[...], 1e-4)


def test_vision_model_reads_typed_images():
    config = VimConfig(image_size=4, patch_size=2, d_model=8, num_layers=1, d_state=3,
                       num_classes=3)  # fmt: skip
    model = Vim(config, rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(1), (4, 4, 4, 3))
    graphdef, state = nnx.split(model)
    placed = nnx.merge(graphdef, jax.tree.map(put, state))
    logits = placed(put(images, "x"))
    assert_close(logits, model(images), 1e-5)
    assert spec_of(logits) == ("x", None)
