"""What is to be explained: which logit, read off which token, of which input."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from jmamba.layers.freezing import NOTHING, Frozen
from jmamba.layers.model import LayeredModel
from jmamba.requests import check_finite
from jmamba.types import ArrayLike, Images, Tokens

Inputs = Tokens | Images | ArrayLike
Numbers = int | Sequence[int] | Int[Array | np.ndarray, "*b"]
"""One number for all samples, one for each, or q for each."""

PerSample = Numbers | str | None
"""Numbers, the name of a class, or None for the model's own choice."""


class MeanOf(NamedTuple):
    """The mean of several logits, as a target: of he and him, of all kinds of dogs.

    Attributes:
      targets: classes or tokens, q for all samples or (b, q).
    """

    targets: Sequence[int] | Int[Array | np.ndarray, "*b q"]


class Continuation(NamedTuple):
    """Tokens that go on from a text, as a target: the sum of their logits.

        sum_t logit[token t], read off the token before it

    The inputs are then the text and all of these tokens but the last, and so many have
    relevance. Those of a query of more tokens are averaged by methods to which the
    target is nothing.

    Attributes:
      tokens: q for all samples or (b, q).
    """

    tokens: Sequence[int] | Int[Array | np.ndarray, "*b q"]


class Contrast(NamedTuple):
    """Why one and not the other: the difference of two logits, as a target.

    Attributes:
      target: class or token that is explained, one or one per sample, or the mean of
        several; None for the predicted one.
      against: the one that it is compared with, or several.
    """

    target: "PerSample | MeanOf | Continuation"
    against: "Numbers | MeanOf | Continuation"


TargetChoice = PerSample | MeanOf | Continuation | Contrast
"""Whose logit is explained, or which sum or difference of some."""


class Question(NamedTuple):
    """An input, and the logits and tokens that explanations are about.

    `target` is one number per sample, None for the predicted class or token, a `MeanOf`
    several, or a `Contrast` of such. `query` is None where a model reads the mean over
    all tokens; where it has q tokens for each sample, so has the target.
    """

    graphdef: Any
    state: Any
    inputs: Tokens | Images
    target: Any
    query: Int[Array, "b"] | Int[Array, "b q"] | None


def ask(
    model: LayeredModel, inputs: Inputs, target: TargetChoice, query: PerSample
) -> Question:
    """Check what is to be explained and fill in the query.

    Args:
      model: the model.
      inputs: token ids or images.
      target: class or token whose logit is explained; None for the predicted one; a
        `MeanOf` several, a `Continuation`, or a `Contrast` for the difference of two.
      query: the token that it is read off, counted in the residual stream, negative
        from the end; None for the class token of an image and the last of a text, for
        a classifier of texts the last that is no padding. Of (b, q) tokens, with as
        many targets, logits are added up.

    Raises:
      ValueError: the inputs do not fit the model, target or query is out of range or
        not one number per sample, or a weight is not finite (nothing is checked while
        tracing).
    """
    checked = model.check_inputs(inputs)
    if isinstance(target, Continuation):
        checked, target, query = _go_on(model, checked, target, query)
    batch, length = checked.shape[0], model.count_tokens(checked.shape)
    if query is None:
        place = model.find_query(checked)
        chosen = None if place is None else jnp.broadcast_to(jnp.asarray(place), batch)
    else:
        chosen = _numbers(query, batch, -length, length, "query")
        chosen = None if chosen is None else chosen % length
    graphdef, state = nnx.split(model)
    check_finite({"The model's weights": state}, "relevance")
    read_off = (batch,) if chosen is None else chosen.shape
    wanted = _targets(target, read_off, model, "target")
    return Question(graphdef, state, checked, wanted, chosen)


def _targets(
    choice: Any, read_off: tuple[int, ...], model: LayeredModel, name: str
) -> Any:
    """Return a checked target of as many numbers as tokens that it is read off."""
    if isinstance(choice, Contrast):
        pair = zip(choice, ("target", "against"), strict=True)
        return Contrast(*(_targets(one, read_off, model, name) for one, name in pair))
    if isinstance(choice, Continuation):
        raise ValueError(
            "A contrast with a continuation is of two texts: explain(...) takes it; "
            "elsewhere ask about each and take the difference."
        )
    count = model.num_targets
    if isinstance(choice, MeanOf):
        wanted = MeanOf(_rows(choice.targets, read_off[0], count, name))
        shape = read_off[:1]
    else:
        choice = _find(model, choice, name) if isinstance(choice, str) else choice
        wanted = _numbers(choice, read_off[0], 0, count, name)
        shape = read_off if wanted is None else wanted.shape
    if shape != read_off:
        raise ValueError(
            f"{name} has the shape {shape} and query {read_off}: give a target for "
            "each token that is read off, or MeanOf([...]) for several off one."
        )
    return wanted


def _find(model: LayeredModel, choice: str, name: str) -> int:
    """Return the number of a class that is given by its name."""
    names = getattr(model.config, "class_names", ())
    if choice in names:
        return names.index(choice)
    if hasattr(model.config, "num_classes"):
        has = f"whose classes are {', '.join(names)}" if names else "that names none"
    else:
        has = "which tells tokens apart: give an id, as tokenizer.encode(...) does"
    raise ValueError(f"{name}={choice!r} is no class of this model, {has}.")


def _go_on(model: LayeredModel, inputs: Any, target: Continuation, query: PerSample):
    """Return the text that goes on, and what is read off which of its tokens."""
    if model.reads != "tokens" or hasattr(model.config, "num_classes"):
        raise ValueError(
            f"A {type(model).__name__} tells classes apart and goes on with no tokens: "
            "give a class as the target."
        )
    if query is not None:
        raise ValueError(
            "A continuation is read off the tokens before its own: leave query out."
        )
    tokens = _rows(target.tokens, len(inputs), model.num_targets, "target")
    places = inputs.shape[1] - 1 + np.arange(tokens.shape[1])
    longer = jnp.concatenate([inputs, tokens[:, :-1].astype(inputs.dtype)], axis=1)
    return longer, tokens, np.broadcast_to(places, tokens.shape)


def _rows(choice: Any, batch: int, count: int, name: str) -> Int[Array, "b q"]:
    """Return some numbers for each sample."""
    values = choice if isinstance(choice, Tracer) else np.asarray(choice)
    if values.ndim not in (1, 2) or not values.size:
        raise ValueError(
            f"{name}={choice!r}: give several integers, or as many for each sample."
        )
    make = jnp if isinstance(values, Tracer) else np
    rows = make.broadcast_to(values, (batch, values.shape[-1]))
    return _numbers(rows, batch, 0, count, name)


def _numbers(choice: Any, batch: int, low: int, high: int, name: str) -> Any:
    if choice is None:
        return None
    is_traced = isinstance(choice, Tracer)
    values = choice if is_traced else np.asarray(choice)
    is_each = values.ndim == 2 and len(values) == batch and values.shape[1] > 0
    if values.dtype.kind not in "iu" or not (
        is_each or (values.ndim < 2 and values.size in (1, batch))
    ):
        raise ValueError(
            f"{name}={choice!r}: give one integer, or one for each of {batch} samples."
        )
    if not is_traced and (values.min() < low or values.max() >= high):
        raise ValueError(
            f"{name}={values.tolist()} is out of range: give {low} to {high - 1}."
        )
    if is_each:
        return jnp.asarray(values)
    return jnp.broadcast_to(jnp.asarray(values).reshape(-1), (batch,))


def pick(logits: Float[Array, "b *q v"], target: Any) -> Float[Array, "b"]:
    """Return what is explained of each sample's logits.

    Args:
      logits: of each sample, read off one token or off q.
      target: of a `Question`.
    """
    target = resolve(logits, target)
    if isinstance(target, Contrast):
        return pick(logits, target.target) - pick(logits, target.against)
    if isinstance(target, MeanOf):
        several = jnp.take_along_axis(logits, jnp.asarray(target.targets), axis=1)
        return jnp.mean(several, axis=1)
    own = jnp.take_along_axis(logits, target[..., None], axis=-1)
    return jnp.sum(own.reshape(len(own), -1), axis=1)


def resolve(logits: Float[Array, "b *q v"], target: Any) -> Any:
    """Return a target with the predicted class or token where none is given."""
    if isinstance(target, Contrast):
        return target._replace(target=resolve(logits, target.target))
    return jnp.argmax(logits, axis=-1) if target is None else target


def read_logits(
    model: LayeredModel,
    x: Float[Array, "b l m"],
    query: Int[Array, "b *q"] | None,
    *,
    frozen: Frozen = NOTHING,
) -> Float[Array, "b *q v"]:
    """Return the logits that a residual stream before the first block leads to."""
    return model.read(model.run_layers(x, frozen=frozen).x, query, frozen=frozen)
