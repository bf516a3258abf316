"""Training and measuring classifiers."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jmamba.models.sharding import Sharding
from jmamba.ops.sharding import keep_places


class Labelled(NamedTuple):
    """A batch of inputs and their classes."""

    inputs: Any
    labels: Any


def classification_loss(model: Any, batch: Labelled) -> Float[Array, ""]:
    """Return the mean cross-entropy, in nats, of the right classes.

    Args:
      model: a module that maps inputs to logits (b, v), such as a `Vim`.
      batch: what it reads and the classes (b).
    """
    return mean_cross_entropy(model(batch.inputs), batch.labels)


def mean_cross_entropy(
    logits: Float[Array, "*b v"], labels: Int[Array, "*b"]
) -> Float[Array, ""]:
    """Return the mean cross-entropy, in nats, of the right classes."""

    def run(logits, labels):
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses)

    return keep_places(run, (logits, labels), ("", ""), "")


def held_out_loss(
    model: Any, batch: Labelled, *, at_once: int, sharding: Sharding | None = None
) -> float:
    """Return the mean cross-entropy, in nats, of many inputs.

    Args:
      model: a module that maps inputs to logits.
      batch: as many times `at_once` rows as there are; what is over is left out.
      at_once: rows of a call.
      sharding: that the model lies by; all processes then call this with all rows.

    Raises:
      ValueError: there are fewer rows than `at_once`.
    """
    count = len(batch.labels) // at_once
    if not count:
        raise ValueError(
            f"{len(batch.labels)} rows are fewer than a batch of {at_once}; give more, "
            "or a smaller batch."
        )
    graphdef, state = nnx.split(model)
    rows = np.arange(at_once) if sharding is None else sharding.rows_here(at_once)
    total = 0.0
    for start in range(0, count * at_once, at_once):
        part = Labelled(*(np.asarray(x)[start + rows] for x in batch))
        if sharding is not None:
            part = sharding.place_batch(part, rows=at_once)
        total += float(_mean_loss(graphdef, state, part))
    return total / count


@partial(jax.jit, static_argnames="graphdef")
def _mean_loss(graphdef, state, batch):
    return classification_loss(nnx.merge(graphdef, state), batch)


def predict_all(
    model: Any, inputs: Any, *, batch: int = 64
) -> Float[np.ndarray, "b v"]:
    """Return the logits of many inputs, a batch at a time.

    Args:
      model: a module that maps inputs to logits.
      inputs: an array with one input per row.
      batch: how many are computed at once; the last batch is filled up with zeros, so
        that one program does for all.

    Examples:
      >>> model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
      >>> predict_all(model, np.ones((5, 3), np.float32), batch=2).shape
      (5, 2)
    """
    graphdef, state = nnx.split(model)
    found = []
    for start in range(0, len(inputs), batch):
        part = np.asarray(inputs[start : start + batch])
        fill = [(0, batch - len(part))] + [(0, 0)] * (part.ndim - 1)
        logits = _predict(graphdef, state, np.pad(part, fill))
        found.append(np.asarray(logits)[: len(part)])
    return np.concatenate(found)


def is_right(
    model: Any, batch: Labelled, *, at_once: int = 64
) -> Bool[np.ndarray, "b"]:
    """Return which inputs are classified right; the mean is the accuracy."""
    logits = predict_all(model, batch.inputs, batch=at_once)
    return np.argmax(logits, axis=-1) == np.asarray(batch.labels)


@partial(jax.jit, static_argnames="graphdef")
def _predict(graphdef, state, inputs):
    return nnx.merge(graphdef, state)(inputs)
