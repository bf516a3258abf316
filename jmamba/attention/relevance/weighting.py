"""What a logit's gradient says about each layer, and attention weighed with it."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmamba.attention.question import pick
from jmamba.attention.relevance.scaling import min_max
from jmamba.attention.relevance.settings import AttentionSettings
from jmamba.layers.model import LayeredModel
from jmamba.layers.stack import walk


def block_gradients(
    model: LayeredModel,
    x: Float[Array, "b l m"],
    target: Any,
    query: Int[Array, "b *q"] | None,
    measure=lambda block, x, out: None,
):
    """Return d logit / d residual stream in front of, between and behind all blocks.

    Args:
      model: the model.
      x: the residual stream before the first block.
      target: of a `Question`: class or token of each sample, or a `Contrast`.
      query: the token of each sample that the logit is read off.
      measure: what to record on the way, as `run_layers` reads it.

    Returns:
      Gradients (s + 1, b, l, m) and the stacked measurements.
    """
    shifts = jnp.zeros((model.config.num_layers, *x.shape), x.dtype)

    edit = {"residual_out": jnp.add}

    def total(x, shifts):
        passed = model.run_layers(x, read=measure, edit=edit, edits=shifts)
        return jnp.sum(pick(model.read(passed.x, query), target)), passed.found

    both, seen = jax.grad(total, argnums=(0, 1), has_aux=True)(x, shifts)
    return jnp.concatenate([both[0][None], both[1]]), seen


def token_weights(
    model: LayeredModel, gradients: Float[Array, "t b l m"], settings: AttentionSettings
) -> Float[Array, "s b l"]:
    """Return one weight per token and layer, made of gradients at the chosen place.

    Args:
      model: the model.
      gradients: what `block_gradients` returned.
      settings: the choices.

    Raises:
      ValueError: gradients are asked for in front of output projections that
        feed-forward layers follow.
    """
    here = gradients[:-1] if settings.gradient_at == "block_in" else gradients[1:]

    def reduce(gradient):
        if settings.gradient_reduce == "mean":
            return jnp.mean(gradient, axis=-1)
        return jnp.max(jnp.maximum(gradient, 0), axis=-1)

    if settings.gradient_at == "gated_y":
        here = _before_projection(model, here, reduce)
    else:
        here = reduce(here)
    return here if settings.gradient_reduce == "mean" else jax.vmap(min_max)(here)


def _before_projection(model: LayeredModel, behind: Float[Array, "s b l m"], reduce):
    """Reduce the gradient at each direction's part of what the projection reads."""

    def step(block, _, behind):
        if not block.is_bare:
            raise ValueError(
                'gradient_at="gated_y" needs blocks that add what their mixer puts '
                "out and nothing else, but behind these are feed-forward layers, or "
                'outputs are scaled: give gradient_at="block_out".'
            )
        y = jax.eval_shape(
            lambda x: block.mixer.run(block.project(x).recurrence)[0], behind
        )
        y = jnp.zeros(y.shape, behind.dtype)
        out, pull = jax.vjp(block.mixer.project_out, y)
        scale = jnp.asarray(block.mixer.scale, behind.dtype)
        made = scale * pull(behind.astype(out.dtype))[0].astype(behind.dtype)
        return None, reduce(made)

    return walk(model.runs(), step, None, behind)[1]


def weigh(attention, gradient, settings: AttentionSettings):
    """Return attention times gradient, its negative part treated as settings say."""
    if settings.clamp == "factors":  # attention is positive already
        return attention * jnp.maximum(gradient, 0)
    product = attention * gradient
    if settings.clamp == "abs":
        return jnp.abs(product)
    return jnp.maximum(product, 0) if settings.clamp == "product" else product
