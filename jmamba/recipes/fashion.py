"""Fashion-MNIST: grey garments on black, whose mask is what is not black."""

import gzip
from pathlib import Path

import numpy as np

from jmamba.recipes.emoji import Composites

NAMES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt",
         "sneaker", "bag", "ankle boot")  # fmt: skip
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
"""Part -> its files with images and with labels."""


def read_fashion(images: Path, labels: Path) -> Composites:
    """Read one part of Fashion-MNIST, grey as three equal colours in [0, 1].

    Args:
      images: the idx file of pictures, gzipped.
      labels: the idx file of classes, gzipped.

    Raises:
      ValueError: a file is no such file, or both do not fit together.

    References:
      Xiao, Rasul & Vollgraf, "Fashion-MNIST", arXiv 1708.07747.
    """
    grey, classes = _read_idx(images, 3), _read_idx(labels, 1)
    if len(grey) != len(classes):
        raise ValueError(f"{images} has {len(grey)} pictures and {labels} "
                         f"{len(classes)} labels; give files of one part.")  # fmt: skip
    colours = np.repeat((grey / np.float32(255))[..., None], 3, axis=-1)
    return Composites(colours, classes.astype(np.int32), grey > 0, grey == 0)


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    try:
        raw = gzip.decompress(path.read_bytes())
        if raw[:4] != bytes((0, 0, 8, dimensions)):
            raise ValueError(f"no idx file of {dimensions} dimensions")
        shape = np.frombuffer(raw, ">i4", dimensions, offset=4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(
            f"Cannot read {path}: {error}. Give Fashion-MNIST's gzipped idx files."
        ) from error
