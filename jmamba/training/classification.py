"""Training and measuring classifiers."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

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
