"""What `jmamba train` reads: a text as bytes, tokenized texts, or pictures."""

import dataclasses
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jmamba.files.token_files import INDEX, read_tokens
from jmamba.models.mamba.config import MambaConfig
from jmamba.models.vim.config import VimConfig
from jmamba.training.batches import TextBatch
from jmamba.training.bits_per_byte import (
    bits_per_byte,
    bits_per_token,
    bytes_per_stream,
)
from jmamba.training.card import BY_PICTURES, BY_ROWS, BY_STREAMS
from jmamba.training.classification import (
    classification_loss,
    held_out_loss,
    is_right,
)
from jmamba.training.config import TrainConfig
from jmamba.training.data import check_windows, read_bytes, split_bytes
from jmamba.training.image_folder import ImageFolder, class_names_in
from jmamba.training.language import train
from jmamba.training.placed import fit_source
from jmamba.training.sources import ByteWindows, Source, spread_windows
from jmamba.training.token_rows import TokenRows

MEASURED_ROWS = 256
"""Rows of tokenized texts that are measured at most."""


HELD_OUT_ROWS = 64
"""Rows of texts that are measured during training, at most."""

MEASURED_PICTURES = 1024
"""Pictures that are measured at most."""

HELD_OUT_PICTURES = 0.1
"""Part of the pictures of each class that is measured on."""


class TrainingCorpus(NamedTuple):
    """What there is to train and to measure on.

    Attributes:
      train: called as train(model, config=, sharding=, directory=, report=, extend=),
        returns the trained model.
      tokenizer: "bytes", the folder of its files, or None for pictures.
      unit: what is counted: a byte, a token, a picture.
      in_step: how many of these a step trains on.
      sizes: how many are trained on, and held out.
      measured: a sentence on how these are measured.
      measure: called as measure(model, report=), returns bits per token of those, or
        the part of the pictures that is right.
    """

    train: Callable[..., Any]
    tokenizer: str | None
    unit: str
    in_step: int
    sizes: tuple[int, int]
    measured: str
    measure: Callable[..., float]

    @property
    def has_pictures(self) -> bool:
        """Whether it is of pictures."""
        return self.tokenizer is None


def holds_pictures(data: Path) -> bool:
    """Say whether a path is a folder of folders, as those of pictures by class are."""
    if not data.is_dir() or (data / INDEX).exists():
        return False
    return any(path.is_dir() for path in data.iterdir())


def choose_config(data: Path, options: Mapping[str, Any]) -> Any:
    """Return the configuration of a model of what is there, by a command's options.

    Raises:
      ValueError: it is a folder of other files, or the options are none of a model.
    """
    if holds_pictures(data):
        names = class_names_in(data)
        return take_fields(
            VimConfig, options, num_classes=len(names), class_names=names
        )
    size = read_tokens(data, check=False).about["vocab_size"] if data.is_dir() else 256
    return take_fields(MambaConfig, options, vocab_size=size)


def take_fields(kind: Any, options: Mapping[str, Any], **others: Any) -> Any:
    """Return a dataclass of those options that are its fields."""
    names = {field.name for field in dataclasses.fields(kind)} & set(options)
    taken = {name: plain_value(options[name]) for name in names}
    return kind(**(taken | others))


def plain_value(value: Any) -> Any:
    """Return what an option of some choices stands for."""
    return value.value if isinstance(value, StrEnum) else value


def open_corpus(data: Path, config: Any, settings: TrainConfig) -> TrainingCorpus:
    """Return a text by its file, or tokenized texts or pictures by their folder.

    Raises:
      ValueError: it cannot be read, is damaged, or too short.
    """
    if isinstance(config, VimConfig):
        return _open_pictures(data, config, settings)
    choices: dict[str, Any] = {
        name: getattr(settings, name) for name in ("batch", "length", "seed")
    }
    in_step = settings.batch * settings.length
    if not data.is_dir():
        train_part, middle, test = split_bytes(read_bytes(data))
        check_windows(len(train_part), settings.length)
        bytes_per_stream(len(test))
        return TrainingCorpus(
            _train_on(
                ByteWindows(train_part, **choices),
                None
                if len(middle) <= settings.length + 1
                else spread_windows(
                    middle, count=HELD_OUT_ROWS, length=settings.length
                ),
            ),
            "bytes",
            "byte",
            in_step,
            (len(train_part), len(test)),
            BY_STREAMS,
            partial(bits_per_byte, data=test),
        )
    texts = read_tokens(data)
    rows = TokenRows(texts, **choices)
    test = rows.test(MEASURED_ROWS)
    is_bytes = texts.about["tokenizer"] == "bytes"
    return TrainingCorpus(
        _train_on(rows, rows.test(HELD_OUT_ROWS)),
        "bytes" if is_bytes else str(data),
        "byte" if is_bytes else "token",
        in_step,
        (rows.train_rows * settings.length, rows.held_out * settings.length),
        BY_ROWS.format(length=settings.length, rows=len(test.tokens)),
        partial(bits_per_token, batch=test),
    )


def _train_on(source: Source, held_out: TextBatch | None) -> Callable[..., Any]:
    return partial(train, data=source, held_out=held_out)


def _open_pictures(
    data: Path, config: VimConfig, settings: TrainConfig
) -> TrainingCorpus:
    pictures = ImageFolder(
        data, config, batch=settings.batch, seed=settings.seed,
        hold_out=HELD_OUT_PICTURES,
    )  # fmt: skip
    test = pictures.test(MEASURED_PICTURES)

    def fit_pictures(model, *, config, sharding, **options):
        evaluate = None
        if len(test.labels) >= config.batch:
            evaluate = partial(
                held_out_loss, batch=test, at_once=config.batch, sharding=sharding
            )
        return fit_source(
            model, classification_loss, pictures, config,
            sharding=sharding, evaluate=evaluate, **options,
        )  # fmt: skip

    def measure(model, report):
        found = float(is_right(model, test).mean())
        report(len(test.labels), len(test.labels), found)
        return found

    return TrainingCorpus(
        fit_pictures,
        None,
        "picture",
        settings.batch,
        (len(pictures.files), len(test.labels)),
        BY_PICTURES.format(part=HELD_OUT_PICTURES),
        measure,
    )
