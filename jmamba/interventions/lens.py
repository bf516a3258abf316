"""The logit lens: what each layer would say, at each token."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.interventions.request import Inputs
from jmamba.interventions.tuned_lens import TunedLens
from jmamba.layers.model import LayeredModel
from jmamba.ops.meshes import on_any_mesh
from jmamba.requests import (
    RESULT_BYTES,
    WORKING_BYTES,
    check_memory,
    choose_layers,
    choose_positions,
)


@on_any_mesh
def logit_lens(
    model: LayeredModel,
    inputs: Inputs,
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    tuned: TunedLens | None = None,
    memory_limit: int = RESULT_BYTES,
) -> Float[Array, "s b q v"]:
    """Return the logits that each layer's residual stream has at each token.

        lens[layer, i] = W_out norm(x[layer + 1][i])

    Args:
      model: a model of texts or images.
      inputs: token ids (b, l) or images.
      layers: behind which layers; None for all.
      positions: which tokens; None for all.
      tuned: a `TunedLens`, whose translation of x is read in place of x.
      memory_limit: bytes that may be returned.

    Raises:
      ValueError: inputs do not fit, a layer or token does not exist, the lens is of
        another model, or too much would be returned.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> tokens = jnp.array([list(b"hello")])
      >>> lens = logit_lens(model, tokens, positions=[-1])
      >>> bool(jnp.allclose(lens[-1, 0, 0], model(tokens).logits[0, -1], atol=1e-5))
      True

    References:
      nostalgebraist, "Interpreting GPT: the logit lens", 2020.
    """
    checked, chosen = _check(model, inputs, layers, tuned)
    length = model.count_tokens(checked.shape)
    tokens = choose_positions(positions, length, "positions")
    counts = {"layers": len(chosen), "samples": checked.shape[0], "tokens": len(tokens)}
    counts["logits"] = model.num_targets
    check_memory("logit_lens", counts, 4, memory_limit)
    return _lens(*nnx.split((model, tuned)), checked, tokens, chosen)


class LensReading(NamedTuple):
    """What each layer would say at each token, in few numbers.

    Attributes:
      ids: of the likeliest tokens or classes, best first.
      probabilities: theirs.
      entropy: of the layer's distribution, in bits.
      divergence: KL(model || layer), in bits: what is lost by taking the layer's
        distribution for that of the whole model.
      predicted: the probability of what the whole model finds likeliest.
      rank: how many others the layer finds likelier than that.
    """

    ids: Int[Array, "s b l k"]
    probabilities: Float[Array, "s b l k"]
    entropy: Float[Array, "s b l"]
    divergence: Float[Array, "s b l"]
    predicted: Float[Array, "s b l"]
    rank: Int[Array, "s b l"]


@on_any_mesh
def read_lens(
    model: LayeredModel,
    inputs: Inputs,
    *,
    layers: Sequence[int] | None = None,
    tuned: TunedLens | None = None,
    top: int = 5,
    memory_limit: int = WORKING_BYTES,
) -> LensReading:
    """Read the lens at all tokens, keeping a few numbers of each distribution.

    The logits of one layer are held at a time.

    Args:
      model: a model of texts or images.
      inputs: token ids (b, l) or images.
      layers: behind which layers; None for all.
      tuned: as in `logit_lens`.
      top: how many of the likeliest are kept.
      memory_limit: bytes that the logits of one layer may take.

    Raises:
      ValueError: as in `logit_lens`, or there are not so many tokens or classes.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> found = read_lens(model, jnp.array([list(b"hello")]), top=3)
      >>> found.ids.shape, found.divergence[-1].max().round(3).tolist()
      ((2, 1, 5, 3), 0.0)

    References:
      nostalgebraist, "Interpreting GPT: the logit lens", 2020; Belrose et al., arXiv
      2303.08112, section 3, for the divergence.
    """
    checked, chosen = _check(model, inputs, layers, tuned)
    if not 1 <= top <= model.num_targets:
        raise ValueError(f"top={top}: give 1 to {model.num_targets}.")
    counts = {"samples": checked.shape[0], "logits": model.num_targets}
    counts["tokens"] = model.count_tokens(checked.shape)
    check_memory("read_lens", counts, 4, memory_limit)
    return _read(*nnx.split((model, tuned)), checked, chosen, top)


def _check(model, inputs, layers, tuned) -> tuple[Any, tuple[int, ...]]:
    checked = model.check_inputs(inputs)
    if tuned is not None:
        tuned.check(model)
    return checked, choose_layers(layers, model.config.num_layers)


@partial(jax.jit, static_argnames=("graphdef", "layers"))
def _lens(graphdef, state, inputs, tokens, layers):
    model, tuned = nnx.merge(graphdef, state)

    def look(block, x, out):
        return out.x[:, tokens]

    x = model.run_layers(model.embed(inputs), read=look, only=layers).found
    return jax.lax.map(
        lambda own: read_layer(model, tuned, *own), (x, jnp.asarray(layers))
    )


@partial(jax.jit, static_argnames=("graphdef", "layers", "top"))
def _read(graphdef, state, inputs, layers, top):
    model, tuned = nnx.merge(graphdef, state)
    passed = model.run_layers(
        model.embed(inputs), read=lambda block, x, out: out.x, only=layers
    )
    last = model.config.num_layers - 1
    whole = jax.nn.log_softmax(read_layer(model, None, passed.x, last))
    best = jnp.argmax(whole, axis=-1, keepdims=True)

    def summarise(own):
        scores = jax.nn.log_softmax(read_layer(model, tuned, *own))
        values, ids = jax.lax.top_k(scores, top)
        own = jnp.take_along_axis(scores, best, axis=-1)
        return LensReading(
            ids,
            jnp.exp(values),
            -_mean_log(scores, scores),
            jnp.maximum(_mean_log(whole, whole) - _mean_log(whole, scores), 0),
            jnp.exp(own[..., 0]),
            jnp.sum(scores > own, axis=-1),
        )

    return jax.lax.map(summarise, (passed.found, jnp.asarray(layers)))


def read_layer(
    model: LayeredModel, tuned: TunedLens | None, x: Float[Array, "b l m"], layer: Any
) -> Float[Array, "b l v"]:
    """Return the logits of a residual stream behind a layer, at each of its tokens.

    Args:
      model: whose norm and read-out they go through.
      tuned: what translates it first; None for nothing.
      x: the residual stream.
      layer: which it leaves.
    """
    x = x if tuned is None else tuned.translate(x, layer)
    single = x.reshape(-1, 1, x.shape[-1])  # b l m -> (b l) 1 m
    logits = model.read(single, jnp.zeros(len(single), int))
    return logits.reshape(*x.shape[:2], -1)


def _mean_log(weights: Float[Array, "b l v"], scores: Float[Array, "b l v"]):
    """Return the mean of log-probabilities over a distribution, in bits."""
    return jnp.sum(jnp.exp(weights) * scores, axis=-1) / jnp.log(2.0)
