"""Explanations of images to test reports with: pictures, a tiny model, and made up."""

import dataclasses

import numpy as np
from vision_definition import tiny_vim

from jmamba import Vim
from jmamba.attention import METHODS
from jmamba.report import ImageExplanation, Predictions
from jmamba.report.image.explanation import Reading
from jmamba.report.image.measure import seen_region

NAMES = ("cat", "dog", "small bird", "fish & co", "$tree$")


def draw_picture(height=20, width=30, seed=0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (height, width, 3)).astype(np.uint8)


def named_vim(**options) -> Vim:
    """Return a Vim of 5 named classes for images of 12 x 12 pixels."""
    model = tiny_vim(**options)
    model.config = dataclasses.replace(model.config, class_names=NAMES)
    return model


def made_up_image(*, side=4, layers=3, methods=tuple(METHODS), **changes):
    """Return an explanation of random numbers, for pictures of any size."""
    draw = np.random.default_rng(1)
    length = side * side + 1
    relevance = {
        name: draw.normal(size=(side, side)).astype(np.float32) for name in methods
    }
    found = ImageExplanation(
        model="made up",
        name="folder/<cat> & $dog$.png",
        picture=draw_picture(),
        seen=seen_region(30, 20, crop=True),
        read_as=Reading(4 * side, 4 * side, 4, 4),
        predictions=Predictions(
            np.array([2, 0], np.int32),
            np.array([0.8, 0.1], np.float32),
            ("<b>bird</b>", "_cat"),
        ),
        target=2,
        label="<b>bird</b>",
        probability=0.8,
        method=methods[0],
        relevance=relevance,
        class_index=length // 2,
        layers=(0, layers - 1) if layers > 1 else (0,),
        class_attention=draw.random((layers, side, side), np.float32),
        attention=draw.random((layers, length, length), np.float32),
        reading=draw.random((layers + 1, 2), np.float32),
        norms=1 + draw.random((layers + 1, length), np.float32),
        settings={"method": methods[0]},
        environment={"platform": "cpu", "versions": {"python": "3"}},
        timings={"prediction": 0.1},
    )
    return dataclasses.replace(found, **changes)
