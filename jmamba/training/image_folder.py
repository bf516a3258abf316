"""Pictures to train on: a folder for each class."""

import hashlib
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from jmamba.files.errors import FileError
from jmamba.files.untrusted import as_path
from jmamba.models.vim.config import VimConfig
from jmamba.models.vim.images import preprocess, preprocessing_of
from jmamba.training.classification import Labelled
from jmamba.training.order import make_order


def class_names_in(folder: Path) -> tuple[str, ...]:
    """Return the names of the folders in one, sorted; hidden ones are passed by."""
    there = folder.iterdir() if folder.is_dir() else ()
    names = (x.name for x in there if x.is_dir())
    return tuple(sorted(name for name in names if not name.startswith(".")))


class ImageFolder:
    """Pictures of a folder that has one folder for each class, read as they are asked.

    Epoch after epoch all come once, in another order; see `TokenRows`. Each is resized
    and its middle kept, as a model reads it; nothing is mirrored or shifted.

    Args:
      folder: of the folders of the classes.
      config: of the model.
      batch: pictures of a step.
      seed: of the order.
      hold_out: part of each class, the last ones by name, that is not trained on.

    Attributes:
      class_names: those of the folders, sorted; a label is a place among them.

    Raises:
      FileError: there are no classes or pictures, or more classes than the model has.
      ValueError: Grain is not installed; a picture, when it is read, is none.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        config: VimConfig,
        *,
        batch: int,
        seed: int,
        hold_out: float = 0.0,
    ):
        self.folder, self.config, self.batch = as_path(folder), config, batch
        self.class_names = class_names_in(self.folder)
        self.files, self.held_out = [], []
        for label, name in enumerate(self.class_names):
            found = sorted((self.folder / name).iterdir())
            found = [(x, label) for x in found if not x.name.startswith(".")]
            stop = len(found) - math.ceil(hold_out * len(found))
            self.files += found[:stop]
            self.held_out += found[stop:]
        if not self.files:
            raise FileError(
                f"{self.folder} holds no pictures by classes; it is to have a folder "
                "for each class, with its pictures: cats/1.png, dogs/1.png."
            )
        self.vocab_size = len(self.class_names)
        if self.vocab_size > config.num_classes:
            raise FileError(
                f"{self.folder} has {self.vocab_size} classes, and the model "
                f"{config.num_classes}; give it num_classes={self.vocab_size}."
            )
        self.order = make_order(len(self.files), seed)
        self.settings: dict[str, Any] = {"data": self._fingerprint()}

    def read(self, step: int, rows: Int[np.ndarray, "k"]) -> Labelled:
        """Return pictures of a step and their classes, by their numbers from 0 on."""
        return self._read(
            [self.files[self.order[int(step * self.batch + row)]] for row in rows]
        )

    def test(self, most: int) -> Labelled:
        """Return pictures that are held out, evenly from all, so many at most.

        Raises:
          FileError: none are.
        """
        if not self.held_out:
            raise FileError(
                f"Of the pictures in {self.folder} none are held out; give hold_out=."
            )
        count = min(most, len(self.held_out))
        chosen = np.linspace(0, len(self.held_out) - 1, count).astype(int)
        return self._read([self.held_out[number] for number in chosen])

    def _read(self, chosen: list[tuple[Path, int]]) -> Labelled:
        options = preprocessing_of(self.config)
        pictures = [preprocess(file, **options) for file, _ in chosen]
        labels = np.asarray([label for _, label in chosen], np.int32)
        return Labelled(np.concatenate(pictures), labels)

    def _fingerprint(self) -> str:
        """Return a short text that differs between other names and sizes of files."""
        seen = hashlib.sha256()
        for file, _ in (*self.files, *self.held_out):
            name = Path(file).relative_to(self.folder).as_posix()
            seen.update(f"{name} {file.stat().st_size}\n".encode())
        return seen.hexdigest()[:16]
