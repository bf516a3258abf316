"""Explanations by gradients: input x gradient and SmoothGrad."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.attention.question import (
    Contrast,
    Inputs,
    PerSample,
    TargetChoice,
    ask,
    pick,
    read_logits,
    resolve,
)
from jmamba.layers.freezing import NOTHING, Frozen
from jmamba.layers.model import LayeredModel
from jmamba.ops.meshes import on_any_mesh
from jmamba.requests import as_key
from jmamba.types import KeyLike


@on_any_mesh
def gradient_x_input(
    model: LayeredModel,
    inputs: Inputs,
    *,
    target: TargetChoice = None,
    query: PerSample = None,
) -> Float[Array, "b tokens"]:
    """Return the product of embedding and gradient, summed over the model's width.

        R[j] = x[j] . d logit / d x[j]

    Args:
      model: a `MambaLM` or a `Vim`.
      inputs: token ids (b, l) or images (b, height, width, colours).
      target: class or token whose logit is explained, one or one per sample; None for
        the predicted one.
      query: the token that it is read off, one or one per sample; None for the class
        token of an image and the last token of a text.

    Returns:
      The relevance of every token of the residual stream, the class token included;
      `heat_map` makes a picture of it.

    Raises:
      ValueError: inputs do not fit the model, or target or query is out of range.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> gradient_x_input(model, jnp.array([list(b"hello")])).shape
      (1, 5)

    References:
      Shrikumar et al., "Not just a black box", arXiv 1605.01713.
    """
    return token_relevance(*ask(model, inputs, target, query), frozen=NOTHING)


@partial(jax.jit, static_argnames=("graphdef", "frozen"))
def token_relevance(
    graphdef, state, inputs, target, query, frozen: Frozen
) -> Float[Array, "b tokens"]:
    """Return input x gradient of a `Question`, differentiated as `frozen` says."""
    model = nnx.merge(graphdef, state)
    x = model.embed(inputs)
    return jnp.sum(x * logit_gradient(model, x, target, query, frozen), axis=-1)


def logit_gradient(
    model, x, target, query, frozen: Frozen = NOTHING
) -> Float[Array, "b l m"]:
    """Return the gradient of every sample's own logit."""

    def total(x):
        return jnp.sum(pick(read_logits(model, x, query, frozen=frozen), target))

    return jax.grad(total)(x)


def resolve_at(model, x, target, query):
    """Return the targets of a `Question`, the predicted ones where none are given."""
    if target is not None and not isinstance(target, Contrast):
        return target
    return resolve(read_logits(model, x, query), target)


class Estimate(NamedTuple):
    """Relevance that was estimated from random samples, and how well.

    Attributes:
      relevance: the mean over samples.
      error: its standard error, the samples' deviation over the root of their number.
    """

    relevance: Float[Array, "b l"]
    error: Float[Array, "b l"]


@on_any_mesh
def smooth_grad(
    model: LayeredModel,
    inputs: Inputs,
    *,
    target: TargetChoice = None,
    query: PerSample = None,
    samples: int = 25,
    noise: float = 0.15,
    key: KeyLike | None = None,
) -> Float[Array, "b tokens"]:
    """Return the product of embedding and mean gradient at noisy embeddings.

        R[j] = x[j] . mean_e d logit(x + e) / d x[j],   e normal

    Args:
      model, inputs, target, query: as in `gradient_x_input`.
      samples: noisy copies.
      noise: standard deviation of e, in parts of each sample's range max x - min x.
      key: randomness, or a seed; None for a fixed one.

    Returns:
      The relevance of every token of the residual stream, the class token included.

    Raises:
      ValueError: inputs do not fit the model, target or query is out of range, there
        are no samples, or the noise is negative.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> smooth_grad(model, jnp.array([list(b"hello")]), samples=2).shape
      (1, 5)

    References:
      Smilkov et al., "SmoothGrad", arXiv 1706.03825, section 3.
    """
    _check_noise(samples, noise, 1)
    question = ask(model, inputs, target, query)
    key = as_key(key, "smooth_grad")
    return _smooth_grad(*question, key, jnp.float32(noise), samples).relevance


@on_any_mesh
def estimate_smooth_grad(
    model: LayeredModel,
    inputs: Inputs,
    *,
    target: TargetChoice = None,
    query: PerSample = None,
    samples: int = 25,
    noise: float = 0.15,
    key: KeyLike | None = None,
) -> Estimate:
    """Return SmoothGrad with its Monte-Carlo error.

        error[j] = deviation over e of (x[j] . d logit(x + e) / d x[j]) / sqrt(samples)

    Args:
      model, inputs, target, query, samples, noise, key: as in `smooth_grad`; at least
        two samples.

    Returns:
      What `smooth_grad` returns, and its standard error.

    Raises:
      ValueError: as `smooth_grad`, or there is one sample only.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> found = estimate_smooth_grad(model, jnp.array([list(b"hello")]), samples=2)
      >>> found.relevance.shape, bool((found.error > 0).all())
      ((1, 5), True)

    References:
      Smilkov et al., "SmoothGrad", arXiv 1706.03825, section 3.
    """
    _check_noise(samples, noise, 2)
    question = ask(model, inputs, target, query)
    key = as_key(key, "estimate_smooth_grad")
    return _smooth_grad(*question, key, jnp.float32(noise), samples)


def _check_noise(samples: int, noise: float, fewest: int) -> None:
    if samples < fewest or not 0 <= noise < math.inf:
        raise ValueError(
            f"samples={samples}, noise={noise}: give at least "
            f"{'one sample' if fewest == 1 else 'two samples'} and no negative noise."
        )


@partial(jax.jit, static_argnames=("graphdef", "samples"))
def _smooth_grad(graphdef, state, inputs, target, query, key, noise, samples):
    model = nnx.merge(graphdef, state)
    x = model.embed(inputs)
    target = resolve_at(model, x, target, query)
    extent = jnp.max(x, axis=(1, 2)) - jnp.min(x, axis=(1, 2))
    scale = noise.astype(x.dtype) * extent[:, None, None]

    def add(moments, step):
        """Take one sample into the mean and the sum of squares about it (Welford)."""
        mean, squares = moments
        count, key = step
        noisy = x + scale * jax.random.normal(key, x.shape, x.dtype)
        one = jnp.sum(x * logit_gradient(model, noisy, target, query), axis=-1)
        off = one - mean
        mean = mean + off / count
        return (mean, squares + off * (one - mean)), None

    none = jnp.zeros(x.shape[:2], x.dtype)
    steps = jnp.arange(1, samples + 1, dtype=x.dtype), jax.random.split(key, samples)
    (mean, squares), _ = jax.lax.scan(add, (none, none), steps)
    return Estimate(mean, jnp.sqrt(squares / max(samples - 1, 1) / samples))
