"""The data sets of pictures that the vision recipes train and test on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from jmamba.recipes.emoji import CLASSES, Composites, compose, read_emoji
from jmamba.recipes.fashion import FILES, NAMES, read_fashion
from jmamba.recipes.workbench import Workbench

PICTURES = ("emoji", "fashion")
"""Names of the data sets that `load_pictures` knows."""


@runtime_checkable
class Pictures(Protocol):
    """Pictures with classes and masks.

    Attributes:
      names: of the classes.
    """

    names: tuple[str, ...]

    def draw(self, count: int, *, seed: int, step: int) -> Composites:
        """Return pictures to train on, always the same ones for a seed and step."""
        ...

    def test(self, count: int) -> Composites:
        """Return pictures that are never drawn for training."""
        ...

    def new(self, count: int) -> Composites | None:
        """Return pictures of objects that no picture for training shows, if any."""
        ...

    def validation(self, count: int) -> Composites:
        """Return pictures to make choices on, of which none is in `test` or `new`."""
        ...


class EmojiPictures:
    """Emoji over textures.

    Args:
      path: zip file of emoji, see `read_emoji`.
      side: of the pictures.

    Raises:
      ValueError: the file cannot be read.
    """

    names: tuple[str, ...] = tuple(CLASSES)

    def __init__(self, path: Path, side: int):
        self.side = side
        self.known, self.unknown = read_emoji(path), read_emoji(path, held_out=True)

    def draw(self, count: int, *, seed: int, step: int) -> Composites:
        """Put known emoji over new textures."""
        return compose(self.known, count, side=self.side, key=(0, seed, step))

    def test(self, count: int) -> Composites:
        """Put known emoji over other textures, at other places."""
        return compose(self.known, count, side=self.side, key=(1, 0))

    def new(self, count: int) -> Composites:
        """Put emoji that are never drawn for training over textures."""
        return compose(self.unknown, count, side=self.side, key=(2, 0))

    def validation(self, count: int) -> Composites:
        """Put known emoji over textures that neither training nor testing shows."""
        return compose(self.known, count, side=self.side, key=(3, 0))


class FashionPictures:
    """Fashion-MNIST.

    Args:
      paths: "train" and "test", each with the files of its images and labels.

    Raises:
      ValueError: a file cannot be read.
    """

    names: tuple[str, ...] = NAMES

    def __init__(self, paths: Mapping[str, tuple[Path, Path]]):
        self.parts = {part: read_fashion(*files) for part, files in paths.items()}
        whole = self.parts["train"]
        last = len(whole.labels) - len(whole.labels) // 12  # of 60,000 the last 5,000
        self.parts["train"] = Composites(*(array[:last] for array in whole))
        self.parts["validation"] = Composites(*(array[last:] for array in whole))

    def draw(self, count: int, *, seed: int, step: int) -> Composites:
        """Pick pictures of the part for training."""
        return _pick(self.parts["train"], count, (seed, step))

    def test(self, count: int) -> Composites:
        """Pick pictures of the part for testing."""
        return _pick(self.parts["test"], count, (1, 0))

    def new(self, count: int) -> None:
        """Return None: all garments of the test part are new."""

    def validation(self, count: int) -> Composites:
        """Pick pictures of the last twelfth of the part for training, never drawn."""
        return _pick(self.parts["validation"], count, (3, 0))


def _pick(part: Composites, count: int, key: tuple[int, ...]) -> Composites:
    chosen = np.random.default_rng(list(key)).integers(len(part.labels), size=count)
    return Composites(*(array[chosen] for array in part))


def load_pictures(name: str, side: int, bench: Workbench) -> Pictures:
    """Read a data set.

    Args:
      name: "emoji" over textures or "fashion", for Fashion-MNIST.
      side: of the pictures; Fashion-MNIST's is 28 whatever is asked for.
      bench: knows where the files are.

    Raises:
      ValueError: a file is missing or cannot be read, or there is no such data set.
    """
    if name == "emoji":
        return EmojiPictures(bench.data("emoji64.zip"), side)
    if name == "fashion":
        return FashionPictures(
            {part: (bench.data(x), bench.data(y)) for part, (x, y) in FILES.items()}
        )
    raise ValueError(f"pictures={name!r}: give {' or '.join(map(repr, PICTURES))}.")
