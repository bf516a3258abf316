"""What a run reads: rows of every step's batch, each asked for by its number."""

import hashlib
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8

from jmamba.models.sharding import Sharding
from jmamba.training.batches import TextBatch
from jmamba.training.data import check_windows, sample_windows


@runtime_checkable
class Source(Protocol):
    """Rows to train on: the same ones whenever, and on whatever process, asked for.

    Since a row is found by its number alone, the position of a run in its data is the
    number of its step, which every checkpoint has.

    Attributes:
      batch: rows of a step.
      vocab_size: tokens, or classes, that there can be.
      settings: what the rows depend on, as JSON has it.
    """

    batch: int
    vocab_size: int
    settings: dict[str, Any]

    def read(self, step: int, rows: Int[np.ndarray, "k"]) -> Any:
        """Return rows of a step's batch, by their numbers from 0 on."""
        ...


class ByteWindows:
    """Random windows of a text, whose tokens are bytes.

    Args:
      data: the text.
      batch: windows in a step.
      length: bytes that a model reads of each.
      seed: of their places.

    Raises:
      ValueError: the text is shorter than a window.

    Examples:
      >>> source = ByteWindows(np.arange(20, dtype=np.uint8), batch=2, length=4, seed=0)
      >>> tokens, targets, _ = source.read(0, np.arange(2))
      >>> bool((targets == tokens + 1).all())
      True
    """

    vocab_size = 256

    def __init__(
        self, data: UInt8[np.ndarray, "n"], *, batch: int, length: int, seed: int
    ):
        check_windows(len(data), length)
        self.data, self.batch, self.length, self.seed = data, batch, length, seed
        digest = hashlib.sha256(np.ascontiguousarray(data).data).hexdigest()
        self.settings = {"data": digest[:16]}

    def read(self, step: int, rows: Int[np.ndarray, "k"]) -> TextBatch:
        """Return windows of a step, by their numbers from 0 on."""
        windows = sample_windows(
            self.data, batch=self.batch, length=self.length, seed=self.seed, step=step
        )[rows]
        return TextBatch(windows[:, :-1], windows[:, 1:])


def spread_windows(
    data: UInt8[np.ndarray, "n"], *, count: int, length: int
) -> TextBatch:
    """Return windows of a text, evenly from all of it, so many at most.

    Args:
      data: the text, longer than a window.
      count: of windows; of a short text there are fewer, which do not overlap.
      length: bytes that a model reads of each.

    Examples:
      >>> windows = spread_windows(np.arange(20, dtype=np.uint8), count=9, length=8)
      >>> windows.tokens[:, 0].tolist()
      [0, 11]
    """
    most = min(count, (len(data) - 1) // length)
    starts = np.linspace(0, len(data) - 1 - length, most).astype(int)
    windows = data[starts[:, None] + np.arange(length + 1)].astype(np.int32)
    return TextBatch(windows[:, :-1], windows[:, 1:])


def draw_from(source: Source, sharding: Sharding | None = None) -> Callable[[int], Any]:
    """Return a function of a step to its batch, as `fit` asks for.

    Args:
      source: of the rows.
      sharding: each process reads the rows of its own devices; None for one device.

    Raises:
      ValueError: the mesh does not divide the batch.
    """
    if sharding is None:
        rows = np.arange(source.batch)
        return lambda step: jax.tree.map(jnp.asarray, source.read(step, rows))
    sharding.check_batch(source.batch, 0)
    here = sharding.rows_here(source.batch)
    return lambda step: sharding.place_batch(source.read(step, here), rows=source.batch)
