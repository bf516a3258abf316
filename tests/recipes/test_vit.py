import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jmamba.recipes.vit import (
    VIT_METHODS,
    ViT,
    ViTConfig,
    transformer_attribution,
    vit_attention,
    vit_rollout,
)

CONFIG = ViTConfig(16, 2, 2, 2, num_classes=4, image_size=16, patch_size=4)
LENGTH = 17


@pytest.fixture(scope="module")
def model():
    # larger than at initialisation, so that attention is not flat
    model = ViT(CONFIG, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, jax.tree.map(lambda x: 3 * x, state))


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(2, 16, 16, 3)), jnp.float32)


def attention_of(model, images):
    return [np.asarray(a, float) for a in model.run(model.embed(images))[1]]


def test_attention_rows_sum_to_one(model, images):
    for layer in attention_of(model, images):
        np.testing.assert_allclose(layer.sum(-1), 1, atol=1e-5)


def test_raw_attention_and_rollout_equal_dense_products(model, images):
    layers = attention_of(model, images)
    raw = np.mean([layer[:, :, 0].mean(1) for layer in layers], axis=0)
    np.testing.assert_allclose(vit_attention(model, images), raw, atol=1e-6)
    product = np.eye(LENGTH)
    for layer in layers:
        T = layer.mean(1) + np.eye(LENGTH)
        product = T / T.sum(-1, keepdims=True) @ product
    np.testing.assert_allclose(vit_rollout(model, images), product[:, 0], atol=1e-6)


def test_attribution_gradient_is_that_of_finite_differences(model, images):
    """Two layers: (I + G2) (I + G1), G = mean over heads of (gradient A)+."""
    target = np.array([1, 3])
    layers = attention_of(model, images)

    def logits(shifts):
        return model.run(model.embed(images), shifts)[0]

    zero = [jnp.zeros_like(jnp.asarray(a, jnp.float32)) for a in layers]
    weighed = []
    for s, layer in enumerate(layers):
        _, pull = jax.vjp(
            lambda a, s=s: logits([*zero[:s], a, *zero[s + 1 :]]), zero[s]
        )
        gradient = pull(jax.nn.one_hot(target, 4))[0]
        weighed.append(np.maximum(np.asarray(gradient, float) * layer, 0).mean(1))
    product = (np.eye(LENGTH) + weighed[1]) @ (np.eye(LENGTH) + weighed[0])
    found = transformer_attribution(model, images, jnp.asarray(target))
    np.testing.assert_allclose(found, product[:, 0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", VIT_METHODS)
def test_explanations_are_of_all_tokens(model, images, name):
    assert VIT_METHODS[name](model, images).shape == (2, LENGTH)
