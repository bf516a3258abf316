"""What is measured of an explanation of a picture, and how it becomes a score."""

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jmamba.attention import METHODS, explain, heat_map
from jmamba.evaluation import (
    FRACTIONS,
    Interval,
    area_under_curve,
    black_out,
    bootstrap_interval,
    count_segmentation,
    flipping_scores,
    replace_patches,
)
from jmamba.models.vim.images import normalise
from jmamba.models.vim.model import Vim
from jmamba.recipes.emoji import Composites
from jmamba.recipes.vit import VIT_METHODS, ViT

Maps = Float[np.ndarray, "b h w"]
RANDOM, RELEASED = "random", "mamba_attribution, released code"
"""The baseline, and the paper's method as its released code computes it."""


def explainers(model: Vim | ViT, side: int) -> dict[str, Callable[[Any], Maps]]:
    """Return all explanations of a model: from normalised pictures to maps.

    Args:
      model: what is explained, its predicted class that is.
      side: of the pictures.
    """
    found: dict[str, Callable] = {RANDOM: _guess}
    if isinstance(model, Vim):
        for name in METHODS:
            found[name] = partial(_explain_vim, model, method=name)
        found[RELEASED] = partial(
            _explain_vim, model, method="mamba_attribution", settings="official_2024"
        )
    else:
        for name, method in VIT_METHODS.items():
            found[name] = partial(_explain_vit, model, side=side, method=method)
    return found


def _guess(images) -> Maps:
    """Return noise that depends on nothing but the picture."""
    seeds = [zlib.crc32(np.ascontiguousarray(image).tobytes()) for image in images]
    return np.stack([
        np.random.default_rng(seed).random(images.shape[1:3]) for seed in seeds
    ])  # fmt: skip


def _explain_vim(model: Vim, images, *, method: str, **options) -> Maps:
    relevance = explain(model, jnp.asarray(images), method, **options)
    return np.asarray(heat_map(model, relevance, *images.shape[1:3]))


def _explain_vit(model: ViT, images, *, side: int, method: Callable) -> Maps:
    grid: Array = method(model, jnp.asarray(images))[:, 1:]
    grid = grid.reshape(len(images), model.config.grid, model.config.grid)
    maps = jax.image.resize(grid, (len(images), side, side), method="linear")
    return np.asarray(maps)


def measure_maps(
    predict: Callable, pictures: Composites, maps: Maps, *, patch: int
) -> Mapping[str, np.ndarray]:
    """Measure explanations of pictures by perturbation, flipping and segmentation.

    Args:
      predict: function of normalised pictures to logits.
      pictures: what was explained.
      maps: how much each pixel matters.
      patch: side of the patches that are flipped.

    Returns:
      Arrays over pictures: "positive" and "negative", whether it is classified right
      while pixels vanish; "flipping", delta A^F of the predicted class's logit; and
      the fields of `SegmentationCounts`.
    """

    def read(images):
        return predict(normalise(np.asarray(images, np.float32)))

    found = dict(count_segmentation(maps, pictures.masks.astype(int))._asdict())
    for order in ("positive", "negative"):
        steps = [
            black_out(pictures.images, maps, fraction, order=order)
            for fraction in FRACTIONS
        ]
        logits = read(np.concatenate(steps))
        right = np.argmax(logits, axis=-1) == np.tile(pictures.labels, len(steps))
        found[order] = right.reshape(len(steps), -1).T
    rows = maps.shape[1] // patch
    grid = maps.reshape(len(maps), rows, patch, rows, patch).mean(axis=(2, 4))
    found["flipping"] = flipping_scores(
        read,
        pictures.images,
        grid.reshape(len(maps), -1),
        partial(replace_patches, patch=patch),
    ).delta
    return found


SCORES: dict[str, tuple[tuple[str, ...], Callable]] = {
    "positive AUC": (("positive",), lambda x: area_under_curve(x.mean(0))),
    "negative AUC": (("negative",), lambda x: area_under_curve(x.mean(0))),
    "flipping": (("flipping",), lambda x: float(x.mean())),
    "pixel accuracy": (
        ("correct", "labelled"),
        lambda correct, labelled: correct.sum() / labelled.sum(),
    ),
    "mAP": (("precision",), lambda x: float(x.mean())),
    "mIoU": (
        ("intersection", "union"),
        lambda inside, union: float(np.mean(inside.sum(0) / union.sum(0))),
    ),
}
"""Score -> what is measured for it, and the score of a data set."""

LOWER_IS_BETTER = ("positive AUC",)


def score(values: Mapping[str, np.ndarray], name: str) -> Interval:
    """Return a score of a data set with its 95 % interval over pictures."""
    fields, statistic = SCORES[name]
    return bootstrap_interval(statistic, *(values[field] for field in fields))


def compare(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], name: str
) -> Interval:
    """Return by how much the first is better, with its interval over pictures.

    Both were measured on the same pictures, which are drawn again together.
    """
    fields, statistic = SCORES[name]
    sign = -1 if name in LOWER_IS_BETTER else 1

    def difference(*arrays):
        half = len(arrays) // 2
        return sign * (statistic(*arrays[:half]) - statistic(*arrays[half:]))

    arrays = [values[field] for values in (first, second) for field in fields]
    return bootstrap_interval(difference, *arrays)


def say(interval: Interval, *, percent: bool = True) -> str:
    """Return an interval as text: value [low, high].

    Examples:
      >>> say(Interval(0.5, 0.25, 0.75)), say(Interval(2.0, 1.0, 3.0), percent=False)
      ('50.0 [25.0, 75.0]', '2.00 [1.00, 3.00]')
    """
    if percent:
        return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * v for v in interval))
    return "{:.2f} [{:.2f}, {:.2f}]".format(*interval)
