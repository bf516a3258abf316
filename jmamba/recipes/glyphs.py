"""Drawn shapes for pictures of hidden objects, where there are no emoji."""

from collections.abc import Callable, Collection

import numpy as np
from PIL import Image, ImageDraw

from jmamba.recipes.camouflage import Shapes

FINE = 64
"""Side that shapes are drawn at, before they are made smaller."""
KINDS = 24
"""Shapes of a class, which differ in lightness, size and weight of their lines."""

Draw = Callable[[ImageDraw.ImageDraw, tuple, int, int], None]


def _ring(draw, box, width, light):
    draw.ellipse(box, outline=(light, 255), width=width)


def _cross(draw, box, width, light):
    left, top, right, low = box
    draw.line((left, top, right, low), fill=(light, 255), width=width)
    draw.line((left, low, right, top), fill=(light, 255), width=width)


def _triangle(draw, box, width, light):
    left, top, right, low = box
    corners = [((left + right) // 2, top), (right, low), (left, low)]
    draw.polygon(corners, fill=(light, 255))


def _bars(draw, box, width, light):
    left, top, right, low = box
    for x in np.linspace(left, right - width, 3).astype(int):
        draw.rectangle((x, top, x + width, low), fill=(light, 255))


def _frame(draw, box, width, light):
    draw.rectangle(box, outline=(light, 255), width=width)


def _plus(draw, box, width, light):
    left, top, right, low = box
    x, y = (left + right) // 2, (top + low) // 2
    draw.line((left, y, right, y), fill=(light, 255), width=width)
    draw.line((x, top, x, low), fill=(light, 255), width=width)


def _funnel(draw, box, width, light):
    left, top, right, low = box
    corners = [((left + right) // 2, low), (right, top), (left, top)]
    draw.polygon(corners, fill=(light, 255))


def _rungs(draw, box, width, light):
    left, top, right, low = box
    for y in np.linspace(top, low - width, 3).astype(int):
        draw.rectangle((left, y, right, y + width), fill=(light, 255))


MARKS: dict[str, Draw] = {
    "ring": _ring,
    "cross": _cross,
    "triangle": _triangle,
    "bars": _bars,
}
"""Class -> what is drawn on its plates."""
OTHERS: tuple[Draw, ...] = (_frame, _plus, _funnel, _rungs)
"""What is drawn on plates of no class: about as many lines, another way round."""


def draw_glyphs(size: int, *, eighths: Collection[int] = range(7)) -> Shapes:
    """Return plates with marks on them, always the same ones.

    Args:
      size: side of the shapes.
      eighths: which of each eight kinds of a class are returned, counted from 0.

    Examples:
      >>> shapes = draw_glyphs(16, eighths=[7])
      >>> shapes.names, shapes.classes[0].shape
      (('ring', 'cross', 'triangle', 'bars'), (3, 16, 16, 2))
    """
    kinds = [kind for kind in range(KINDS) if kind % 8 in eighths]
    classes = [
        np.stack([_plate(mark, (label, kind), size) for kind in kinds])
        for label, mark in enumerate(MARKS.values())
    ]
    others = [
        _plate(mark, (len(MARKS) + label, kind), size)
        for label, mark in enumerate(OTHERS)
        for kind in kinds
    ]
    return Shapes(tuple(classes), np.stack(others), tuple(MARKS))


def _plate(mark: Draw, key: tuple[int, int], size: int) -> np.ndarray:
    """Return the lightness and opacity of a round plate with a mark."""
    rng = np.random.default_rng(list(key))
    low, high = int(rng.integers(0, 80)), int(rng.integers(175, 256))
    below, above = (low, high) if rng.random() < 0.5 else (high, low)
    image = Image.new("LA", (FINE, FINE))
    draw = ImageDraw.Draw(image)
    edge = int(rng.integers(0, 5))
    draw.rounded_rectangle(
        (edge, edge, FINE - 1 - edge, FINE - 1 - edge), 12, fill=(below, 255)
    )
    inner = int(rng.integers(12, 18))
    box = (inner, inner, FINE - 1 - inner, FINE - 1 - inner)
    mark(draw, box, int(rng.integers(5, 9)), above)
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))
