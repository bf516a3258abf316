"""How well a model predicts texts."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jmamba.models.language_model import LanguageModel
from jmamba.models.sharding import Sharding
from jmamba.training.batches import TextBatch, text_loss


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


def bits_per_token(
    model: LanguageModel,
    batch: TextBatch,
    *,
    at_once: int = 8,
    sharding: Sharding | None = None,
    report: Callable[[int, int, float], None] = lambda done, total, bits: None,
) -> float:
    """Return the mean of -log2 p(token | those before it in its row and document).

    Args:
      model: a language model.
      batch: rows that are read each on its own; targets below 0 do not count.
      at_once: rows of a call.
      sharding: that the model lies by; all processes then call this with all rows.
      report: called with (rows done, of how many, bits per token so far).

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=8, d_model=4, num_layers=1)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> model.embedding[...] = jnp.zeros((8, 4))  # it knows nothing: 3 bits
      >>> tokens = np.ones((3, 5), np.int32)
      >>> round(bits_per_token(model, TextBatch(tokens, tokens), at_once=2), 3)
      3.0
    """
    graphdef, state = nnx.split(model)
    rows, nats, counted = len(np.asarray(batch.tokens)), 0.0, 0
    for start in range(0, rows, at_once):
        stop = min(start + at_once, rows)
        # filled up, so that one program does for all
        fill = [(0, at_once - (stop - start)), (0, 0)]
        part = jax.tree.map(lambda x: np.pad(x[start:stop], fill), batch)  # noqa: B023
        targets = np.asarray(part.targets).copy()
        targets[stop - start :] = -1
        part = part._replace(targets=targets)
        count = int(np.sum(targets >= 0))
        if sharding is not None:
            here = sharding.rows_here(at_once)
            mine = jax.tree.map(lambda x: x[here], part)  # noqa: B023
            part = sharding.place_batch(mine, rows=at_once)
        nats += float(_mean_nats(graphdef, state, part)) * count
        counted += count
        report(stop, rows, nats / max(counted, 1) / math.log(2))
    return nats / max(counted, 1) / math.log(2)


@partial(jax.jit, static_argnames="graphdef")
def _mean_nats(graphdef, state, batch):
    return text_loss(nnx.merge(graphdef, state), batch)


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
