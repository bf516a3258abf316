"""The data sets of pictures that the vision recipes train and test on."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from jmamba.recipes import camouflage
from jmamba.recipes.camouflage import Shapes, hide, take_shapes
from jmamba.recipes.emoji import CLASSES, Composites, compose, read_emoji
from jmamba.recipes.fashion import FILES, NAMES, read_fashion
from jmamba.recipes.glyphs import draw_glyphs
from jmamba.recipes.workbench import Workbench

PICTURES = ("camouflage", "glyphs", "emoji", "fashion")
"""Names of the data sets that `load_pictures` knows."""

PARTS = {"train": (0, 1, 2, 4, 5, 6), "validation": (3,), "test": (7,)}
"""Part -> which of each eight kinds of hidden objects it shows."""


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


POOL = 2**14
"""Pictures of hidden objects that are made once and drawn from for training."""


class HiddenPictures:
    """Objects among others of the same colours, each kind in one part only.

    Args:
      shapes: of each of `PARTS`.
      side: of the pictures.
    """

    def __init__(self, shapes: Mapping[str, Shapes], side: int):
        self.shapes, self.side = shapes, side
        self.names = shapes["train"].names

    def draw(self, count: int, *, seed: int, step: int) -> Composites:
        """Pick some of `POOL` pictures of known shapes."""
        chosen = np.random.default_rng([0, seed, step]).integers(POOL, size=count)
        images, *others = (array[chosen] for array in self._pool)
        return Composites(images.astype(np.float32) / 255, *others)

    @cached_property
    def _pool(self):
        images, *others = self._hide("train", POOL, 0, 0)
        return (np.round(255 * images).astype(np.uint8), *others)

    def test(self, count: int) -> Composites:
        """Hide known shapes in places that are never drawn for training."""
        return self._hide("train", count, 1, 0)

    def new(self, count: int) -> Composites:
        """Hide shapes that neither training nor validation shows."""
        return self._hide("test", count, 2, 0)

    def validation(self, count: int) -> Composites:
        """Hide shapes that neither training nor testing shows."""
        return self._hide("validation", count, 3, 0)

    def _hide(self, part, count, *key):
        return hide(self.shapes[part], count, side=self.side, key=key)


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
        self.known, self.unknown = read_emoji(path), read_emoji(path, eighths=(7,))

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
      name: "camouflage" for emoji hidden among others, "glyphs" for drawn shapes
        hidden alike, which need no file, "emoji" over textures, or "fashion" for
        Fashion-MNIST.
      side: of the pictures; Fashion-MNIST's is 28 whatever is asked for.
      bench: knows where the files are.

    Raises:
      ValueError: a file is missing or cannot be read, or there is no such data set.
    """
    if name == "glyphs":
        shapes = {
            part: draw_glyphs(side // 2, eighths=kept) for part, kept in PARTS.items()
        }
        return HiddenPictures(shapes, side)
    if name == "camouflage":
        path, kinds = bench.data("emoji64.zip"), camouflage.CLASSES
        shapes = {
            part: take_shapes(read_emoji(path, eighths=e, classes=kinds), side // 2)
            for part, e in PARTS.items()
        }
        return HiddenPictures(shapes, side)
    if name == "emoji":
        return EmojiPictures(bench.data("emoji64.zip"), side)
    if name == "fashion":
        return FashionPictures(
            {part: (bench.data(x), bench.data(y)) for part, (x, y) in FILES.items()}
        )
    raise ValueError(f"pictures={name!r}: give {' or '.join(map(repr, PICTURES))}.")
