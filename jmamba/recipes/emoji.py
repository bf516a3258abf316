"""Emoji over textures: pictures whose object is known to the pixel."""

import io
import json
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

CLASSES = {
    "face": ("face-smiling", "face-affection", "face-tongue", "face-hand",
             "face-neutral-skeptical", "face-sleepy", "face-unwell", "face-concerned",
             "face-negative"),
    "person": ("person", "person-role", "person-fantasy"),
    "mammal": ("animal-mammal",),
    "bird": ("animal-bird",),
    "fruit": ("food-fruit", "food-vegetable"),
    "vehicle": ("transport-ground",),
    "building": ("place-building",),
    "clothing": ("clothing",),
    "flag": ("country-flag",),
    "clock": ("time",),
}  # fmt: skip
"""Class -> subcategories of Unicode's emoji list that it is made of."""

SCALES = (0.45, 0.8)
"""Least and greatest side of an emoji, over the side of the picture."""
TURN = 30.0
"""Greatest rotation, in degrees."""


class EmojiSet(NamedTuple):
    """Emoji by class, colours and opacity in one array each.

    Attributes:
      pictures: per class, (e, 64, 64, 4) from 0 to 255.
      names: of the classes.
    """

    pictures: tuple[np.ndarray, ...]
    names: tuple[str, ...]


class Composites(NamedTuple):
    """Pictures in [0, 1], their classes, and where the object is.

    Attributes:
      images: the pictures.
      labels: the classes of their objects.
      masks: where the object is.
      rivals: where else it could be looked for: at an object of no class; in pictures
        of one object all that is not the object.
    """

    images: Float[np.ndarray, "b h w 3"]
    labels: Int[np.ndarray, "b"]
    masks: Bool[np.ndarray, "b h w"]
    rivals: Bool[np.ndarray, "b h w"]


def read_emoji(
    path: Path,
    *,
    eighths: Collection[int] = range(7),
    classes: Mapping[str, Sequence[str]] = CLASSES,
) -> EmojiSet:
    """Read the emoji of all classes.

    Args:
      path: zip file of PNGs with `emoji.json`, which names their subcategories.
      eighths: which of each eight emoji of a class are read, counted from 0; the
        others are held out.
      classes: class -> subcategories.

    Raises:
      ValueError: the file cannot be read, or lacks a class.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            listed = json.loads(archive.read("emoji.json"))
            found = [
                _pictures(archive, listed, kinds, eighths) for kinds in classes.values()
            ]
    except (OSError, KeyError, zipfile.BadZipFile, ValueError) as error:
        raise ValueError(
            f"Cannot read emoji from {path}: {error}. Give a zip file of PNGs with an "
            "emoji.json that lists image and subcategory of each."
        ) from error
    return EmojiSet(tuple(found), tuple(classes))


def _pictures(archive, listed, kinds, eighths):
    files = sorted(e["image"] for e in listed if e["subcategory"] in kinds)
    files = [f for i, f in enumerate(files) if i % 8 in eighths]
    if not files:
        raise ValueError(f"no emoji of {', '.join(kinds)}")
    return np.stack([
        np.asarray(Image.open(io.BytesIO(archive.read(f"png/{f}"))).convert("RGBA"))
        for f in files
    ])  # fmt: skip


def compose(
    emoji: EmojiSet, count: int, *, side: int, key: Sequence[int]
) -> Composites:
    """Put emoji of random classes, sizes, turns and places over random textures.

    Args:
      emoji: what to draw from, all classes alike.
      count: pictures to make.
      side: of the pictures.
      key: of the random numbers; a key always makes the same pictures.
    """
    rng = np.random.default_rng(list(key))
    labels = rng.integers(len(emoji.names), size=count)
    images = np.empty((count, side, side, 3), np.float32)
    masks = np.empty((count, side, side), bool)
    for i, label in enumerate(labels):
        pictures = emoji.pictures[label]
        layer = _place(pictures[rng.integers(len(pictures))], side, rng)
        opacity = layer[..., 3:]
        ground = texture(side, rng)
        images[i] = opacity * layer[..., :3] + (1 - opacity) * ground
        masks[i] = opacity[..., 0] > 0.5
    return Composites(images, labels.astype(np.int32), masks, ~masks)


def _place(picture, side: int, rng) -> np.ndarray:
    """Return a transparent picture with one emoji in it."""
    size = int(side * rng.uniform(*SCALES))
    image = Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR)
    image = image.rotate(rng.uniform(-TURN, TURN), Image.Resampling.BILINEAR)
    down, across = rng.integers(0, side - size + 1, size=2)
    layer = np.zeros((side, side, 4), np.float32)
    layer[down : down + size, across : across + size] = np.asarray(image) / 255
    return layer


def texture(side: int, rng: np.random.Generator) -> Float[np.ndarray, "h w 3"]:
    """Return a random texture between two colours: noise of one grain, or stripes."""
    if rng.random() < 0.7:
        grain = int(rng.integers(3, 24))
        noise = rng.random((grain, grain)).astype(np.float32)
        image = Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)
        wave = np.clip(np.asarray(image), 0, 1)
    else:
        y, x = np.mgrid[:side, :side] / side
        angle, waves = rng.uniform(0, np.pi), rng.uniform(2, 10)
        along = np.cos(angle) * x + np.sin(angle) * y
        wave = 0.5 + 0.5 * np.sin(2 * np.pi * (waves * along + rng.random()))
    first, second = rng.random((2, 3)).astype(np.float32)
    mixed = wave[..., None] * first + (1 - wave[..., None]) * second
    grains = rng.normal(scale=rng.uniform(0, 0.06), size=(side, side, 1))
    return np.clip(mixed + grains, 0, 1).astype(np.float32)
