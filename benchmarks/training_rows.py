"""A step of training, beside the matrix products that it cannot do without."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from model_rows import random_language_model
from programs import jax_program

import jmamba

EMBEDDED = jmamba.MambaConfig(vocab_size=256, d_model=256, num_layers=6)
"""The shape of the embedded language model."""


def training_programs(batch=5, length=256):
    """Return a step's gradients, and the products of its forward and backward pass.

    Args:
      batch: texts.
      length: tokens of each.
    """
    model = random_language_model(EMBEDDED)
    graphdef, state = nnx.split(model)
    draw = np.random.default_rng(0)
    tokens = jnp.asarray(draw.integers(0, 256, (batch, length + 1)), jnp.int32)
    return {
        "jmamba": jax_program(lambda s, t: _gradients(graphdef, s, t), state, tokens),
        "products": _products(model, batch, length),
    }


def _gradients(graphdef, state, tokens):
    def loss(state):
        logits = nnx.merge(graphdef, state)(tokens[:, :-1]).logits
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        return losses.mean()

    return jax.value_and_grad(loss)(state)


def _products(model, batch, length):
    """Return the gradients of a chain of the same products."""
    mixer = model.layers.mixer
    layers = (mixer.in_proj, mixer.x_proj, mixer.dt_proj, mixer.out_proj)
    maps = tuple(layer.kernel[...] for layer in layers)
    head = jnp.asarray(model.embedding[...])
    weights = jax.random.normal(jax.random.key(0), (batch, length, head.shape[0]))

    def loss(maps, head, x):
        def layer(x, maps):
            into, select, steps, out = maps
            xz = x @ into
            selected = xz[..., : select.shape[0]] @ select
            delta = selected[..., : steps.shape[0]] @ steps
            return (xz[..., : out.shape[0]] + delta) @ out, None

        x, _ = jax.lax.scan(layer, x, maps)
        return jnp.sum((x @ head.T) * weights)

    x = jnp.ones((batch, length, model.config.d_model))
    return jax_program(jax.grad(loss, (0, 1, 2)), maps, head, x)
