"""Explanations by gradients: input x gradient, SmoothGrad, integrated gradients."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
from jmamba.attention.relevance.completeness import (
    embed_baseline,
    logit_change,
    warn_of_gap,
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
) -> Float[Array, "b l"]:
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
) -> Float[Array, "b l"]:
    """Return input x gradient of a `Question`, differentiated as `frozen` says."""
    model = nnx.merge(graphdef, state)
    x = model.embed(inputs)
    return jnp.sum(x * _gradient(model, x, target, query, frozen), axis=-1)


def _gradient(model, x, target, query, frozen: Frozen = NOTHING):
    """Return the gradient of every sample's own logit."""

    def total(x):
        return jnp.sum(pick(read_logits(model, x, query, frozen=frozen), target))

    return jax.grad(total)(x)


def _resolve(model, x, target, query):
    """Return the targets, the predicted ones where none are given."""
    if target is not None and not isinstance(target, Contrast):
        return target
    return resolve(read_logits(model, x, query), target)


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
) -> Float[Array, "b l"]:
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
    if samples < 1 or noise < 0:
        raise ValueError(
            f"samples={samples}, noise={noise}: give at least one sample and no "
            "negative noise."
        )
    key = as_key(key, "smooth_grad")
    question = ask(model, inputs, target, query)
    return _smooth_grad(*question, key, jnp.asarray(noise, jnp.float32), samples)


@partial(jax.jit, static_argnames=("graphdef", "samples"))
def _smooth_grad(graphdef, state, inputs, target, query, key, noise, samples):
    model = nnx.merge(graphdef, state)
    x = model.embed(inputs)
    target = _resolve(model, x, target, query)
    extent = jnp.max(x, axis=(1, 2)) - jnp.min(x, axis=(1, 2))
    scale = noise.astype(x.dtype) * extent[:, None, None]

    def add(total, key):
        noisy = x + scale * jax.random.normal(key, x.shape, x.dtype)
        return total + _gradient(model, noisy, target, query), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(x), jax.random.split(key, samples))
    return jnp.sum(x * total, axis=-1) / samples


@on_any_mesh
def integrated_gradients(
    model: LayeredModel,
    inputs: Inputs,
    *,
    target: TargetChoice = None,
    query: PerSample = None,
    baseline: Any = "mean",
    steps: int = 64,
) -> Float[Array, "b l"]:
    """Return the gradient integrated from a baseline, times the way from there.

        R[j] = (x[j] - x'[j]) . integral_0^1 d logit(x' + t (x - x')) / d x[j] dt

    Relevances add up to logit(x) - logit(x') where the integral, a Gauss-Legendre sum,
    has converged. From embeddings of 0 it hardly does: norms switch on at t = 1e-5 to
    1e-2, one after the other.

    Args:
      model, inputs, target, query: as in `gradient_x_input`.
      baseline: what says nothing: inputs of the same shape, embeddings that broadcast
        to (b, l, m), a token id for every token of a text, or a name in `BASELINES`,
        "mean" for the mean embedding of the vocabulary or pictures of their mean
        colour, "zero" for embeddings of 0.
      steps: points of the sum.

    Returns:
      The relevance of every token of the residual stream, the class token included.

    Raises:
      ValueError: inputs or baseline do not fit the model or each other, target or query
        is out of range, or there are no steps.

    Warns:
      UserWarning: relevances miss more than 1 % of the change; `completeness_gap` says
        by how much.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> hello, spaces = (jnp.array([list(text)]) for text in (b"hello", b"     "))
      >>> found = integrated_gradients(model, hello, target=3, baseline=ord(" "))
      >>> logit, at_start = (model(x).logits[0, -1, 3] for x in (hello, spaces))
      >>> bool(jnp.isclose(jnp.sum(found), logit - at_start, atol=1e-4))
      True

    References:
      Sundararajan et al., "Axiomatic attribution for deep networks", arXiv 1703.01365,
      equation 1 and proposition 1.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: give at least 1.")
    question = ask(model, inputs, target, query)
    start = embed_baseline(model, question.inputs, baseline)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    points = np.stack([(nodes + 1) / 2, weights / 2], axis=1)
    points = jnp.asarray(points.astype(np.float32))
    found = _integrated_gradients(*question, start, points)
    change = logit_change(*question, start)
    warn_of_gap(
        jnp.sum(found, axis=1) - change,
        change,
        f"the integral has not converged with steps={steps}; give more, or another "
        "baseline.",
    )
    return found


@partial(jax.jit, static_argnames="graphdef")
def _integrated_gradients(graphdef, state, inputs, target, query, start, points):
    model = nnx.merge(graphdef, state)
    x = model.embed(inputs)
    target = _resolve(model, x, target, query)
    way = x - start

    def add(total, point):
        t, weight = point.astype(x.dtype)
        return total + weight * _gradient(model, start + t * way, target, query), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(x), points)
    return jnp.sum(way * total, axis=-1)
