"""Whether relevance adds up to what it explains, and where a path to it starts."""

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Float

from jmamba.attention.question import (
    Inputs,
    PerSample,
    TargetChoice,
    ask,
    pick,
    read_logits,
    resolve,
)
from jmamba.layers.model import LayeredModel
from jmamba.ops.meshes import on_any_mesh
from jmamba.requests import as_array
from jmamba.types import Images, Tokens

BASELINES = {
    "tokens": ("mean", "pad", "zero"),
    "images": ("mean", "black", "blurred", "zero"),
}
"""What a model reads -> names of baselines.

mean: the mean embedding of the vocabulary, or pictures of their mean colour; pad: the
token that fills; black: black pictures; blurred: pictures under a Gaussian an eighth of
their sides wide; zero: embeddings of 0, which leave the places of patches out as well.
"""

MOST_MISSED = 0.01
"""Part of the change of a logit that relevance may miss without a warning."""


def embed_baseline(
    model: LayeredModel, inputs: Tokens | Images, baseline: Any
) -> Float[Array, "b l m"]:
    """Return the residual stream that a path to the inputs starts from.

    Args:
      model: the model.
      inputs: what is explained.
      baseline: inputs of the same shape, embeddings that broadcast to (b, l, m), a
        token id for all tokens of a text, or a name in `BASELINES`.

    Raises:
      ValueError: it is none of these.
    """
    embedded = jax.eval_shape(model.embed, inputs)
    shape, dtype, is_text = embedded.shape, embedded.dtype, model.reads == "tokens"
    if isinstance(baseline, str):
        if baseline not in BASELINES[model.reads]:
            raise ValueError(
                f"There is no baseline {baseline!r}; give "
                f"{_needed(model, inputs.shape, shape)}."
            )
        return _embed_named(model, inputs, baseline, embedded)
    values = jnp.asarray(as_array(baseline, "baseline"))
    is_integer = jnp.issubdtype(values.dtype, jnp.integer)
    is_embedding = not is_integer and values.ndim > 0 and values.shape[-1] == shape[-1]
    if is_text and is_integer and values.shape in ((), inputs.shape):
        tokens = jnp.broadcast_to(values, inputs.shape)
        model.check_inputs(tokens)
        return model.embed(tokens)
    if not is_text and values.shape == inputs.shape:
        model.check_inputs(values)
        return model.embed(values)
    fits = values.ndim <= 3 and all(
        own in (1, wanted)
        for own, wanted in zip(values.shape[::-1], shape[::-1], strict=False)
    )
    if is_embedding and fits:
        values = values.reshape((1,) * (3 - values.ndim) + values.shape)
        return jnp.broadcast_to(values.astype(dtype), shape)
    raise ValueError(
        f"baseline has shape {values.shape} and dtype {values.dtype}; give "
        f"{_needed(model, inputs.shape, shape)}."
    )


def _needed(model: LayeredModel, inputs: tuple, embedded: tuple) -> str:
    names = ", ".join(map(repr, BASELINES[model.reads]))
    kind = "tokens" if model.reads == "tokens" else "pictures"
    one = "a token id, " if model.reads == "tokens" else ""
    return f"{names}, {one}{kind} {inputs}, or embeddings that broadcast to {embedded}"


def _embed_named(model, inputs, name, embedded) -> Float[Array, "b l m"]:
    """Return the residual stream of a baseline in `BASELINES`."""
    shape, dtype = embedded.shape, embedded.dtype
    if name == "zero":
        return jnp.zeros(shape, dtype)
    if model.reads == "images":
        if name == "blurred":
            return model.embed(blur(inputs))
        if name == "black":
            colour = jnp.asarray(model.black, inputs.dtype)
        else:
            colour = jnp.mean(inputs, axis=(1, 2), keepdims=True)
        return model.embed(jnp.broadcast_to(colour, inputs.shape))
    if name == "pad":
        pad = model.config.pad_token_id
        if pad is None:
            raise ValueError(
                'baseline="pad", but the model\'s config names no token that fills: '
                "give the id of one, as in baseline=0."
            )
        return model.embed(jnp.full_like(inputs, pad))
    padded = getattr(model.config, "unpadded_vocab_size", None)
    every = jnp.arange(padded or model.num_targets)[None]
    mean = jnp.mean(model.embed(every).astype(jnp.float32), axis=(0, 1))
    return jnp.broadcast_to(mean.astype(dtype), shape)


def blur(images: Images) -> Images:
    """Return pictures under a Gaussian, an eighth of their sides wide.

    Its weights add up to 1 at the edges, too.

    Args:
      images: of any height and width.
    """

    def weigh(side):
        place = np.arange(side) * (8 / side)
        power = np.exp(-0.5 * (place[:, None] - place) ** 2)
        return jnp.asarray(power / power.sum(1, keepdims=True), images.dtype)

    rows, columns = map(weigh, images.shape[1:3])
    return jnp.einsum("ij,bjkc,lk->bilc", rows, images, columns, precision="highest")


@on_any_mesh
def completeness_gap(
    model: LayeredModel,
    inputs: Inputs,
    relevance: Float[Array, "b tokens"],
    *,
    target: TargetChoice = None,
    query: PerSample = None,
    baseline: Any = None,
) -> Float[Array, "b"]:
    """Return by how much relevance misses what it explains.

        gap = sum_j R[j] - (logit(x) - logit(x'))

    Args:
      model, inputs: what was explained.
      relevance: of every token, as an explanation returned it.
      target, query: as the explanation had them.
      baseline: where its path began, as in `integrated_gradients`; None for methods
        that divide up the logit itself, logit(x') = 0: then the gap of `mamba_lrp` is
        minus the share of the biases.

    Returns:
      One number per sample, in logits.

    Raises:
      ValueError: inputs or baseline do not fit the model, or target or query is out of
        range.

    Examples:
      >>> import jmamba
      >>> from jmamba.attention import alti_logit
      >>> config = jmamba.MambaConfig(
      ...     vocab_size=256, d_model=16, num_layers=2, use_conv_bias=False
      ... )
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> tokens = jnp.array([list(b"hello")])
      >>> relevance = alti_logit(model, tokens, target=3)
      >>> gap = completeness_gap(model, tokens, relevance, target=3)
      >>> bool(abs(gap[0]) < 1e-4)
      True
    """
    question = ask(model, inputs, target, query)
    start = None
    if baseline is not None:
        start = embed_baseline(model, question.inputs, baseline)
    return jnp.sum(relevance, axis=1) - logit_change(*question, start)


@partial(jax.jit, static_argnames="graphdef")
def logit_change(graphdef, state, inputs, target, query, start) -> Float[Array, "b"]:
    """Return the logit of a `Question`, less that at another residual stream."""
    model = nnx.merge(graphdef, state)
    logits = read_logits(model, model.embed(inputs), query)
    target = resolve(logits, target)
    if start is None:
        return pick(logits, target)
    return pick(logits, target) - pick(read_logits(model, start, query), target)


def warn_of_gap(
    gap: Float[Array, "b"],
    change: Float[Array, "b"],
    advice: str,
    *,
    part: float = MOST_MISSED,
    rounding: float = 1e-4,
) -> None:
    """Warn if relevance misses more than a part of a logit's change.

    Nothing is said inside a transformation, where there are no numbers yet.
    """
    if isinstance(gap, Tracer) or isinstance(change, Tracer):
        return
    wanted, missed = np.asarray(change, np.float64), np.asarray(gap, np.float64)
    allowed = np.maximum(
        part * np.abs(wanted), rounding * np.maximum(1, np.abs(wanted))
    )
    worst = int(np.argmax(np.abs(missed) - allowed))
    if abs(missed[worst]) <= allowed[worst]:
        return
    warnings.warn(
        f"Relevance of sample {worst} adds up to {wanted[worst] + missed[worst]:.4g}, "
        f"but what it explains is {wanted[worst]:.4g}: {advice}",
        stacklevel=3,
    )
