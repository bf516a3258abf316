"""How well a byte-level model predicts a text."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jmamba.models.language_model import LanguageModel


def bits_per_byte(
    model: LanguageModel,
    data: np.ndarray,
    *,
    streams: int = 16,
    length: int = 1024,
    report: Callable[[int, int, float], None] = lambda done, total, bits: None,
) -> float:
    """Return the mean of -log2 p(byte | all bytes before it in its stream).

    The text is cut into streams that are read side by side, each from front to back
    through the cache, so that no byte but a stream's first lacks its context. A
    stream's first byte is not predicted and not counted.

    Args:
      model: a byte-level model.
      data: the text.
      streams: how many parts are read side by side.
      length: bytes per call.
      report: called with (bytes done, of how many, bits per byte so far).

    Raises:
      ValueError: there are fewer than 2 bytes per stream.
    """
    per_stream = bytes_per_stream(len(data), streams)
    rows = data[: streams * per_stream].reshape(streams, per_stream).astype(np.int32)
    graphdef, state = nnx.split(model)
    cache, nats, done = model.empty_cache(streams), 0.0, 0
    total = streams * (per_stream - 1)
    for start in range(0, per_stream - 1, length):
        stop = min(start + length, per_stream - 1)
        chunk = jnp.asarray(rows[:, start : stop + 1])
        part, cache = _sum_nats(graphdef, state, chunk, cache)
        nats += float(part)
        done += streams * (stop - start)
        report(done, total, nats / done / math.log(2))
    return nats / done / math.log(2)


def bytes_per_stream(size: int, streams: int = 16) -> int:
    """Return how many bytes of a text each stream gets.

    Raises:
      ValueError: there are fewer than 2.

    Examples:
      >>> bytes_per_stream(100)
      6
    """
    if size // streams < 2:
        raise ValueError(
            f"{size} bytes are too few for {streams} streams of at least 2 bytes."
        )
    return size // streams


@partial(jax.jit, static_argnames="graphdef")
def _sum_nats(graphdef, state, chunk, cache):
    out = nnx.merge(graphdef, state)(chunk[:, :-1], cache=cache)
    losses = optax.softmax_cross_entropy_with_integer_labels(out.logits, chunk[:, 1:])
    return jnp.sum(losses), out.cache
