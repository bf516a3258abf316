"""What `jmamba train` reads: a text, whose tokens are bytes, or tokenized texts."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jmamba.files.token_files import read_tokens
from jmamba.training.bits_per_byte import (
    bits_per_byte,
    bits_per_token,
    bytes_per_stream,
)
from jmamba.training.card import BY_ROWS, BY_STREAMS
from jmamba.training.config import TrainConfig
from jmamba.training.data import check_windows, read_bytes, split_bytes
from jmamba.training.sources import ByteWindows, Source
from jmamba.training.token_rows import TokenRows

MEASURED_ROWS = 256
"""Rows of tokenized texts that are measured at most."""


class TrainingTexts(NamedTuple):
    """Texts to train and to measure on.

    Attributes:
      source: of the batches.
      tokenizer: "bytes", or the folder of its files.
      unit: what a token is called.
      sizes: tokens trained on, and those held out.
      measured: a sentence on how these are measured.
      measure: called as measure(model, report=), returns bits per token of those.
    """

    source: Source
    tokenizer: str
    unit: str
    sizes: tuple[int, int]
    measured: str
    measure: Callable[..., float]


def vocabulary_of(data: Path) -> int:
    """Return how many tokens a text, or tokenized texts, can have.

    Raises:
      ValueError: it is a folder of other files.
    """
    return read_tokens(data, check=False).about["vocab_size"] if data.is_dir() else 256


def open_corpus(data: Path, settings: TrainConfig) -> TrainingTexts:
    """Return a text by its file, or tokenized texts by their folder.

    Raises:
      ValueError: it cannot be read, is damaged, or too short.
    """
    choices: dict[str, Any] = {
        name: getattr(settings, name) for name in ("batch", "length", "seed")
    }
    if not data.is_dir():
        train, _, test = split_bytes(read_bytes(data))
        check_windows(len(train), settings.length)
        bytes_per_stream(len(test))
        return TrainingTexts(
            ByteWindows(train, **choices),
            "bytes",
            "byte",
            (len(train), len(test)),
            BY_STREAMS,
            partial(bits_per_byte, data=test),
        )
    texts = read_tokens(data)
    rows = TokenRows(texts, **choices)
    test = rows.test(MEASURED_ROWS)
    is_bytes = texts.about["tokenizer"] == "bytes"
    return TrainingTexts(
        rows,
        "bytes" if is_bytes else str(data),
        "byte" if is_bytes else "token",
        (rows.train_rows * settings.length, rows.held_out * settings.length),
        BY_ROWS.format(length=settings.length, rows=len(test.tokens)),
        partial(bits_per_token, batch=test),
    )
