"""What is to be explained: which logit, read off which token, of which input."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.layers.freezing import NOTHING, Frozen
from jmamba.layers.model import LayeredModel
from jmamba.requests import check_finite
from jmamba.types import ArrayLike, Images, Tokens

Inputs = Tokens | Images | ArrayLike
PerSample = int | Sequence[int] | Int[Array, "b"] | None
"""One number for all samples, one for each, or None for the model's own choice."""


class Contrast(NamedTuple):
    """Why one and not the other: the difference of two logits, as a target.

    Attributes:
      target: class or token that is explained, one or one per sample; None for the
        predicted one.
      against: the one that it is compared with.
    """

    target: PerSample
    against: int | Sequence[int] | Int[Array, "b"]


TargetChoice = PerSample | Contrast
"""Whose logit is explained, or the difference of which two."""


class Question(NamedTuple):
    """An input, and the logits and tokens that explanations are about.

    `target` is one number per sample, None for the predicted class or token, or a
    `Contrast` of such. `query` is None where a model
    reads the mean over all tokens.
    """

    graphdef: Any
    state: Any
    inputs: Tokens | Images
    target: Any
    query: Int[Array, "b"] | None


def ask(
    model: LayeredModel, inputs: Inputs, target: TargetChoice, query: PerSample
) -> Question:
    """Check what is to be explained and fill in the query.

    Args:
      model: the model.
      inputs: token ids or images.
      target: class or token whose logit is explained; None for the predicted one; a
        `Contrast` for the difference of two.
      query: the token that it is read off, counted in the residual stream, negative
        from the end; None for the class token of an image and the last of a text, for
        a classifier of texts the last that is no padding.

    Raises:
      ValueError: the inputs do not fit the model, target or query is out of range or
        not one number per sample, or a weight is not finite (nothing is checked while
        tracing).
    """
    checked = model.check_inputs(inputs)
    batch, length = checked.shape[0], model.count_tokens(checked.shape)
    if query is None:
        place = model.find_query(checked)
        chosen = None if place is None else jnp.broadcast_to(jnp.asarray(place), batch)
    else:
        chosen = _numbers(query, batch, -length, length, "query")
        chosen = None if chosen is None else chosen % length
    graphdef, state = nnx.split(model)
    check_finite({"The model's weights": state}, "relevance")
    pair = target if isinstance(target, Contrast) else (target,)
    names, count = ("target", "against"), model.num_targets
    wanted = [
        _numbers(one, batch, 0, count, name)
        for one, name in zip(pair, names, strict=False)
    ]
    wanted = Contrast(*wanted) if isinstance(target, Contrast) else wanted[0]  # pyright: ignore[reportArgumentType] (a number is given)
    return Question(graphdef, state, checked, wanted, chosen)


def _numbers(choice: PerSample, batch: int, low: int, high: int, name: str):
    if choice is None:
        return None
    values = np.asarray(choice)
    if (
        values.ndim > 1
        or values.size not in (1, batch)
        or values.dtype.kind not in "iu"
    ):
        raise ValueError(
            f"{name}={choice!r}: give one integer, or one for each of {batch} samples."
        )
    if values.min() < low or values.max() >= high:
        raise ValueError(
            f"{name}={values.tolist()} is out of range: give {low} to {high - 1}."
        )
    return jnp.asarray(np.broadcast_to(values.reshape(-1), (batch,)))


def pick(logits: Float[Array, "b v"], target: Any) -> Float[Array, "b"]:
    """Return what is explained of each sample's logits.

    Args:
      logits: of each sample.
      target: of a `Question`.
    """
    target = resolve(logits, target)
    if isinstance(target, Contrast):
        return pick(logits, target.target) - pick(logits, target.against)
    return jnp.take_along_axis(logits, target[:, None], axis=1)[:, 0]


def resolve(logits: Float[Array, "b v"], target: Any) -> Any:
    """Return a target with the predicted class or token where none is given."""
    if isinstance(target, Contrast):
        return target._replace(target=resolve(logits, target.target))
    return jnp.argmax(logits, axis=-1) if target is None else target


def read_logits(
    model: LayeredModel,
    x: Float[Array, "b l m"],
    query: Int[Array, "b"] | None,
    *,
    frozen: Frozen = NOTHING,
) -> Float[Array, "b v"]:
    """Return the logits that a residual stream before the first block leads to."""
    return model.read(model.run_layers(x, frozen=frozen).x, query, frozen=frozen)
