"""Rows of tokenized texts: packed, shuffled, and found by their number."""

from typing import Any

import numpy as np
from jaxtyping import Int

from jmamba.files.errors import FileError
from jmamba.files.token_files import TokenFolder, TokenShard
from jmamba.training.batches import TextBatch
from jmamba.training.order import make_order

HELD_OUT = 0.05
"""Part of the rows, the last ones, that is measured on."""


class TokenRows:
    """Rows of a length, each a part of the texts as they follow each other.

    Documents that share a row are told apart by `segment_ids`: none is read in the
    light of another, and nothing is predicted from one's end to the next one's start.
    Epoch after epoch all rows come once, in another order, which Grain makes of the
    seed; a row is found by its number, so that neither the number of processes nor a
    restart changes what comes. Of a shard less than a row is left out.

    Args:
      texts: of `read_tokens`.
      batch: rows of a step.
      length: tokens of a row.
      seed: of the order.

    Raises:
      ValueError: there are too few tokens, or Grain is not installed.

    References:
      Raffel et al., "T5", arXiv 1910.10683, section 2.1 (packing); Grain,
      `grain.MapDataset`.
    """

    def __init__(self, texts: TokenFolder, *, batch: int, length: int, seed: int):
        self.texts, self.batch, self.length = texts, batch, length
        self.vocab_size = int(texts.about["vocab_size"])
        counts = [(len(shard.tokens) - 1) // length for shard in texts.shards]
        self.firsts = np.cumsum([0, *counts])
        rows = int(self.firsts[-1])
        self.held_out = max(1, int(HELD_OUT * rows))
        self.train_rows = rows - self.held_out
        if self.train_rows < 1:
            raise FileError(
                f"{texts.folder} holds {rows} rows of {length} tokens, and one is held "
                "out to measure on; tokenize more texts, or give a shorter length."
            )
        self.order = make_order(self.train_rows, seed)
        self.settings: dict[str, Any] = {"data": texts.fingerprint()}

    def read(self, step: int, rows: Int[np.ndarray, "k"]) -> TextBatch:
        """Return rows of a step, by their numbers from 0 on."""
        numbers = [self.order[int(step * self.batch + row)] for row in rows]
        return self.rows(np.asarray(numbers))

    def test(self, most: int) -> TextBatch:
        """Return rows that are held out, evenly from all of them, so many at most."""
        count = min(most, self.held_out)
        chosen = np.linspace(0, self.held_out - 1, count).astype(int)
        return self.rows(self.train_rows + chosen)

    def rows(self, numbers: Int[np.ndarray, "k"]) -> TextBatch:
        """Return rows by their place in the texts."""
        shards = np.searchsorted(self.firsts, numbers, side="right") - 1
        parts = [
            pack(self.texts.shards[s], int(number - self.firsts[s]), self.length)
            for s, number in zip(shards, numbers, strict=True)
        ]
        return TextBatch(*map(np.stack, zip(*parts, strict=True)))


def pack(shard: TokenShard, row: int, length: int) -> TextBatch:
    """Return one row of a shard, without the axis of rows.

    Args:
      shard: of the tokens.
      row: its number in the shard.
      length: tokens of a row.

    Examples:
      >>> shard = TokenShard(np.array([5, 6, 7, 8, 9]), np.array([0, 3]))
      >>> pack(shard, 0, length=4)._asdict()  # doctest: +NORMALIZE_WHITESPACE
      {'tokens': array([5, 6, 7, 8], dtype=int32),
       'targets': array([ 6,  7, -1,  9], dtype=int32),
       'segment_ids': array([0, 0, 0, 1], dtype=int32)}
    """
    places = np.arange(row * length, (row + 1) * length + 1)
    tokens = np.asarray(shard.tokens[places[0] : places[-1] + 1]).astype(np.int32)
    documents = np.searchsorted(shard.starts, places, side="right").astype(np.int32)
    is_same = documents[1:] == documents[:-1]
    targets = np.where(is_same, tokens[1:], np.int32(-1))
    return TextBatch(tokens[:-1], targets, documents[:-1] - documents[0])
