"""The walk over layers with edits: what all interventions run."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.attention.question import pick, resolve
from jmamba.interventions.changes import make_changes
from jmamba.interventions.edits import Edit
from jmamba.layers.model import LayeredModel
from jmamba.layers.places import Watch
from jmamba.layers.recurrence import directions_of
from jmamba.requests import take_token


@partial(jax.jit, static_argnames=("graphdef", "names", "layers", "positions"))
def keep_values(graphdef, state, inputs, edits, names, layers, positions):
    """Return the logits of an edited run, and name -> what passed."""
    model = nnx.merge(graphdef, state)
    passed, at = run_edited(model, inputs, edits, names, layers, positions)
    logits = model.unembed(passed.x, at=at)
    seen = {**(passed.found or {}), **at.seen}
    return logits, {
        name: _of_tokens(model, name, seen[name], positions) for name in names
    }


def _of_tokens(model, name, value, positions):
    outside = {place.name: place.axes for place in model.outside}
    if positions is None or outside.get(name, "bv")[1] != "l":
        return value
    return value[:, list(positions)]


class Start(NamedTuple):
    """Where an edited run begins: what comes before is that of the run without edits.

    Attributes:
      layer: the first that is run.
      x: the residual stream that enters it.
    """

    layer: Int[Array, ""]
    x: Float[Array, "b l m"]


@partial(jax.jit, static_argnames="graphdef")
def enter_layers(graphdef: Any, state: Any, inputs: Any) -> Float[Array, "t b l m"]:
    """Return the residual stream that enters each layer, and the last one.

    Args:
      graphdef, state: of the model.
      inputs: checked ones.
    """
    model = nnx.merge(graphdef, state)
    x = model.embed(inputs)
    passed = model.run_layers(x, read=lambda block, x, out: x)
    return jnp.concatenate([passed.found, passed.x[None]])


def run_edited(
    model: LayeredModel,
    inputs: Any,
    edits: Sequence[Edit],
    names: Sequence[str] = (),
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    start: Start | None = None,
) -> tuple[Any, Watch]:
    """Run the layers of a model with edits, under any transformation of JAX.

    Args:
      model: the model.
      inputs: checked ones.
      edits: of places by this package's names.
      names: what is kept.
      layers: of which layers; None for all.
      positions: of which tokens; None for all.
      start: where the run begins; None for the embedding, which must be it where that
        is edited.

    Returns:
      What came of the walk, found by name, and the watch over what is outside of the
      layers, for `model.unembed(passed.x, at=watch)`.
    """
    places = {place.name: place for place in model.places}
    outside = {place.name for place in model.outside}
    count, length = model.config.num_layers, model.count_tokens(inputs.shape)
    has_heads = any(edit.point.heads is not None for edit in edits)
    heads = _count_heads(model, inputs) if has_heads else 0
    changes = make_changes(edits, places, num_layers=count, length=length, heads=heads)
    around = {
        name: lambda value, change=change: change(value, None)
        for name, change in changes.items()
        if name in outside
    }
    inside = {name: change for name, change in changes.items() if name not in outside}
    at = Watch(around, outside.intersection(names))
    x = at("embedding", model.embed(inputs) if start is None else start.x)
    shown = tuple(name for name in names if name not in outside)

    def look(block, x, out):
        seen = {name: out.seen[name] for name in shown}
        if positions is None:
            return seen
        return {name: value[:, list(positions)] for name, value in seen.items()}

    passed = model.run_layers(
        x,
        read=look if shown else None,
        only=layers if shown else None,
        edit=inside,
        edits=jnp.arange(count) if inside else None,
        show=shown,
        first=None if start is None else start.layer,
    )
    return passed, at


def read_edited(
    model: LayeredModel,
    inputs: Any,
    edits: Sequence[Edit],
    query: Any,
    start: Start | None = None,
) -> Float[Array, "b *q v"]:
    """Return the logits that an edited run has at one token of each sample.

    Args:
      model: the model.
      inputs: checked ones.
      edits: of places by this package's names.
      query: the token of each sample, or several; None for the mean over all.
      start: where the run begins; None for the embedding.
    """
    passed, at = run_edited(model, inputs, edits, start=start)
    if not at.edit.keys() - {"embedding"}:
        return model.read(passed.x, query)
    logits = model.unembed(passed.x, at=at)
    if logits.ndim == 2:
        return logits
    return take_token(logits, query)


@partial(jax.jit, static_argnames="graphdef")
def read_target(
    graphdef: Any, state: Any, inputs: Any, target: Any, query: Any
) -> tuple[Float[Array, "b"], Any]:
    """Return the logit that a `Question` is about, and its target with all filled in.

    Args:
      graphdef, state, inputs, target, query: of the question.
    """
    model = nnx.merge(graphdef, state)
    logits = model.read(model.run_layers(model.embed(inputs)).x, query)
    wanted = resolve(logits, target)
    return pick(logits, wanted), wanted


def _count_heads(model: LayeredModel, inputs: Any) -> int:
    """Return how many heads the recurrences of a model have."""
    x = jax.eval_shape(model.embed, inputs)
    made = jax.eval_shape(lambda x: model.layer(0).project(x).recurrence, x)
    return directions_of(made)[0].delta.shape[-1]
