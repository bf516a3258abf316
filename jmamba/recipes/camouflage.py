"""Objects of known classes among others, given away by neither colour nor place.

A picture has one object of a class and one that is of none, in two of its quarters.
Its ground is made of the lightness of a third, shuffled into blobs, and one range of
colours paints all three: what tells the object from the rest is its shape alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from jmamba.recipes.emoji import Composites, EmojiSet

CLASSES = {
    "face": ("face-smiling", "face-affection", "face-tongue", "face-hand",
             "face-neutral-skeptical", "face-sleepy", "face-unwell", "face-concerned",
             "face-negative"),
    "person": ("person", "person-role", "person-fantasy", "person-gesture"),
    "flag": ("country-flag",),
    "vehicle": ("transport-ground",),
    "other": ("arts & crafts", "award-medal", "event", "game", "sport", "animal-bug",
              "animal-marine", "plant-flower", "plant-other", "dishware", "drink",
              "food-asian", "food-fruit", "food-prepared", "food-sweet",
              "food-vegetable", "book-paper", "computer", "household",
              "light & video", "lock", "medical", "money", "musical-instrument",
              "office", "phone", "science", "tool", "writing"),
}  # fmt: skip
"""Class -> subcategories of Unicode's emoji list; the last is of distractors."""

SCALES = (0.46, 0.5)
"""Least and greatest side of a shape, over the side of the picture."""
TURN = 6.0
"""Greatest rotation, in degrees."""
GRAINS = (6, 20)
"""Fewest and most blobs of the ground along a side."""
ENDS, TINT = (0.2, 0.8), 0.4
"""Lightness of both ends of a range of colours, and how far from grey these are."""
LIGHTNESS = np.array([0.299, 0.587, 0.114], np.float32)


class Shapes(NamedTuple):
    """Shapes of classes and distractors, without colours.

    Attributes:
      classes: per class, lightness and opacity (e, h, h, 2) from 0 to 255.
      distractors: the same, of no class.
      names: of the classes.
    """

    classes: tuple[UInt8[np.ndarray, "e h h 2"], ...]
    distractors: UInt8[np.ndarray, "e h h 2"]
    names: tuple[str, ...]


def take_shapes(emoji: EmojiSet, size: int) -> Shapes:
    """Return the shapes of emoji: how light they are, each from black to white.

    Args:
      emoji: classes, distractors last.
      size: side of the shapes.
    """
    found = [np.stack([_bleach(e, size) for e in kind]) for kind in emoji.pictures]
    return Shapes(tuple(found[:-1]), found[-1], emoji.names[:-1])


def _bleach(picture, size: int) -> UInt8[np.ndarray, "h h 2"]:
    small = Image.fromarray(picture).resize((size, size), Image.Resampling.BOX)
    values = np.asarray(small, np.float32)
    light, opacity = values[..., :3] @ LIGHTNESS, values[..., 3]
    low, high = np.percentile(light[opacity > 127], (2, 98))
    light = np.clip((light - low) / max(high - low, 1) * 255, 0, 255)
    return np.stack([light, opacity], axis=-1).astype(np.uint8)


def hide(shapes: Shapes, count: int, *, side: int, key: Sequence[int]) -> Composites:
    """Hide shapes of random classes among others, at random sizes, turns and places.

    Args:
      shapes: what to draw from, all classes alike.
      count: pictures to make.
      side: of the pictures.
      key: of the random numbers; a key always makes the same pictures.
    """
    rng = np.random.default_rng(list(key))
    labels = rng.integers(len(shapes.names), size=count)
    images = np.empty((count, side, side, 3), np.float32)
    masks, rivals = np.empty((2, count, side, side), bool)
    for i, label in enumerate(labels):
        first, second = map(int, rng.permutation(4)[:2])
        shown = _place(_pick(shapes.classes[label], rng), side, first, rng)
        rival = _place(_pick(shapes.distractors, rng), side, second, rng)
        light = ground(_pick(shapes.distractors, rng), side, rng)
        for layer in (shown, rival):
            opacity = layer[..., 1] / 255
            light = opacity * layer[..., 0] + (1 - opacity) * light
        images[i] = draw_colours(rng)[light.astype(np.uint8)]
        masks[i], rivals[i] = (layer[..., 1] > 127 for layer in (shown, rival))
    return Composites(images, labels.astype(np.int32), masks, rivals)


def _pick(pictures, rng):
    return pictures[rng.integers(len(pictures))]


def _place(shape, side: int, quarter: int, rng) -> Float[np.ndarray, "h w 2"]:
    """Return a transparent picture with one shape in a quarter of it."""
    half, size = side // 2, int(side * rng.uniform(*SCALES))
    image = Image.fromarray(shape, "LA").resize((size, size), Image.Resampling.BILINEAR)
    image = image.rotate(rng.uniform(-TURN, TURN), Image.Resampling.BILINEAR)
    down, across = rng.integers(0, half - size + 1, size=2)
    down, across = down + half * (quarter // 2), across + half * (quarter % 2)
    layer = np.zeros((side, side, 2), np.float32)
    layer[down : down + size, across : across + size] = np.asarray(image)
    return layer


def ground(shape, side: int, rng: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """Return blobs as light as the pixels of a shape: as many of each lightness."""
    grain = int(rng.integers(*GRAINS))
    noise = Image.fromarray(rng.random((grain, grain)).astype(np.float32))
    field = np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC))
    levels = np.sort(shape[..., 0][shape[..., 1] > 127])
    order = np.argsort((field * 2**14).astype(np.int16), axis=None, kind="stable")
    light = np.empty(field.size, np.float32)
    light[order] = levels[np.arange(field.size) * len(levels) // field.size]
    return light.reshape(field.shape)


def draw_colours(rng: np.random.Generator) -> Float[np.ndarray, "256 3"]:
    """Return a random range of colours from dark to light, as far apart in all."""
    tints = rng.random((2, 3)).astype(np.float32)
    tints -= (tints @ LIGHTNESS)[:, None]
    dark, light = np.clip(np.array(ENDS, np.float32)[:, None] + TINT * tints, 0, 1)
    steps = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    return dark + steps * (light - dark)
