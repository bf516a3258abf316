"""What is measured of an explanation of a picture, and how it becomes a score."""

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import TypeVar

import numpy as np

from jmamba.attention.relevance.heat_maps import patch_weights
from jmamba.evaluation import (
    FILLINGS,
    Comparison,
    area_under_curve,
    compare_over_seeds,
    count_segmentation,
    ranking_auc,
    removal_masks,
    replace_patches,
)
from jmamba.models.vim.images import normalise
from jmamba.recipes.emoji import Composites
from jmamba.recipes.vision.baselines import Maps
from jmamba.recipes.vision.explainers import Grids

STEPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
"""Shares of patches that are removed."""

Measured = Mapping[str, np.ndarray]
"""What was measured -> arrays over pictures, or over seeds and pictures."""


def spread_grids(grids: Grids, patch: int) -> Maps:
    """Return maps of pixels, between the patches' centres bilinear."""
    down, across = (
        patch_weights(count, patch=patch, stride=patch, side=count * patch)
        for count in grids.shape[1:]
    )
    return np.einsum("yr,brc,xc->byx", down, grids, across)


def measure_location(pictures: Composites, grids: Grids, *, patch: int) -> Measured:
    """Measure how well explanations find the objects of pictures.

    Args:
      pictures: what was explained.
      grids: how much each patch matters.
      patch: side of a patch.

    Returns:
      Arrays over pictures: the fields of `SegmentationCounts`; "pointing", whether the
      highest pixel is the object's; "object", the area under the ROC curve of the
      object's pixels against its rivals.
    """
    maps = spread_grids(grids, patch)
    found = count_segmentation(maps, pictures.masks.astype(int))._asdict()
    highest = maps.reshape(len(maps), -1).argmax(axis=1)[:, None]
    flat = pictures.masks.reshape(len(maps), -1)
    found["pointing"] = np.take_along_axis(flat, highest, axis=1)[:, 0]
    either = pictures.masks | pictures.rivals
    found["object"] = np.array([
        ranking_auc(heat[two], mask[two])
        for heat, mask, two in zip(maps, pictures.masks, either, strict=True)
    ])  # fmt: skip
    return found


def remove(
    predict: Callable, pictures: Composites, grids: Grids, *, patch: int
) -> Measured:
    """Measure what becomes of a prediction as patches are removed by their relevance.

    Args:
      predict: function of normalised pictures to logits.
      pictures, grids, patch: as in `measure_location`.

    Returns:
      For each of `FILLINGS` arrays over pictures: "positive" and "negative", whether it
      is classified right while the most or least relevant patches vanish; "flipping",
      delta A^F of the right class's logit.
    """
    heat, count = grids.reshape(len(grids), -1), len(grids)
    gone = np.concatenate([
        np.stack(list(removal_masks(heat, order=order, fractions=STEPS[1:])))
        for order in ("morf", "lerf")
    ])  # fmt: skip
    images = np.broadcast_to(pictures.images, (len(gone), *pictures.images.shape))
    images, gone = (
        images.reshape(-1, *images.shape[2:]),
        gone.reshape(-1, *heat.shape[1:]),
    )
    whole = np.asarray(predict(normalise(pictures.images)))[None]
    found = {}
    for filling in FILLINGS:
        left = replace_patches(images, gone, patch=patch, filling=filling)
        logits = predict(normalise(left.astype(np.float32)))
        logits = np.asarray(logits).reshape(2, len(STEPS) - 1, count, -1)
        for order, these in zip(("positive", "negative"), logits, strict=True):
            found[f"{filling} {order}"] = (these.argmax(-1) == pictures.labels).T
        first, last = (np.concatenate([whole, these]) for these in logits)
        gained = (last - first)[:, np.arange(count), pictures.labels]
        area = np.trapezoid(gained, STEPS, axis=0) / STEPS[-1]
        found[f"{filling} flipping"] = area
    return found


Key = TypeVar("Key", bound=Hashable)
Statistic = Callable[..., float]


def _mean(values) -> float:
    return float(np.mean(values))


def _curve(right) -> float:
    """Return the area under accuracies, the mean over seeds and pictures."""
    return area_under_curve(right.mean(axis=(0, 1)))


def _share(correct, labelled) -> float:
    return float(correct.sum() / labelled.sum())


def _overlap(inside, union) -> float:
    return float(np.mean(inside.sum((0, 1)) / union.sum((0, 1))))


SCORES: dict[str, tuple[tuple[str, ...], Statistic]] = {
    "pixel accuracy": (("correct", "labelled"), _share),
    "mAP": (("precision",), _mean),
    "mIoU": (("intersection", "union"), _overlap),
    "pointing": (("pointing",), _mean),
    "object": (("object",), _mean),
    **{f"{f} positive": ((f"{f} positive",), _curve) for f in FILLINGS},
    **{f"{f} negative": ((f"{f} negative",), _curve) for f in FILLINGS},
    **{f"{f} flipping": ((f"{f} flipping",), _mean) for f in FILLINGS},
    "flipping": (tuple(f"{f} flipping" for f in FILLINGS), lambda *x: _mean(x)),
    "similarity": (("similarity",), _mean),
    "right": (("right",), _mean),
    "gap": (("gap", "change"), _share),
}
"""Score -> what is measured for it, and the score of a data set."""

PLACES = ("pixel accuracy", "mAP", "mIoU", "pointing", "object")
"""Scores of `measure_location`."""


def is_percent(name: str) -> bool:
    """Say whether a score is a share, and no logit."""
    return "flipping" not in name and name != "similarity"


def lower_is_better(name: str) -> bool:
    """Say whether a score is better the lower it is."""
    return name.endswith("positive")


def value(values: Measured, name: str) -> float:
    """Return a score of a data set."""
    fields, statistic = SCORES[name]
    return statistic(*(values[field] for field in fields))


def score(values: Measured, name: str) -> Comparison:
    """Return a score with its 95 % interval over seeds and pictures."""
    fields, statistic = SCORES[name]
    return compare_over_seeds(statistic, *(values[field] for field in fields))


def compare(first: Measured, second: Measured, name: str) -> Comparison:
    """Return by how much the first is better, with its interval.

    Both were measured with the same seeds on the same pictures, which are drawn again
    together.
    """
    fields, statistic = SCORES[name]
    sign = -1 if lower_is_better(name) else 1
    arrays = [values[field] for values in (first, second) for field in fields]
    return compare_over_seeds(partial(_difference, statistic, sign), *arrays)


def _difference(statistic: Statistic, sign: int, *arrays) -> float:
    half = len(arrays) // 2
    return sign * (statistic(*arrays[:half]) - statistic(*arrays[half:]))


def better(scores: Mapping[Key, Measured], name: str) -> Key:
    """Return which of several has the best score; of equal ones the first."""
    sign = -1 if lower_is_better(name) else 1
    return max(scores, key=lambda key: sign * value(scores[key], name))


def say(found: Comparison, name: str) -> str:
    """Return a score as text: value [low, high], shares in percent.

    Examples:
      >>> say(Comparison(0.5, 0.25, 0.75, 1.0), "mIoU")
      '50.0 [25.0, 75.0]'
      >>> say(Comparison(2.0, 1.0, 3.0, 1.0), "flipping")
      '2.00 [1.00, 3.00]'
    """
    three = found[:3]
    if is_percent(name):
        return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * v for v in three))
    return "{:.2f} [{:.2f}, {:.2f}]".format(*three)
