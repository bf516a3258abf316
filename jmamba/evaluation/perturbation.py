"""Blacking pixels out in the order of their saliency."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jmamba.models.vim.images import normalise

FRACTIONS = tuple(round(0.1 * step, 1) for step in range(1, 10))
"""Shares of pixels that are blacked out, step after step."""

Order = Literal["positive", "negative"]


class PerturbationScores(NamedTuple):
    """How well a classifier does as pixels vanish.

    Attributes:
      fractions: shares of pixels blacked out.
      correct: whether each image was classified right at each step.
      accuracy: the share of images that were.
      auc: the mean accuracy over the steps.
    """

    fractions: Float[np.ndarray, "p"]
    correct: Bool[np.ndarray, "p b"]
    accuracy: Float[np.ndarray, "p"]
    auc: float


def perturbation_scores(
    predict: Callable,
    images: Any,
    saliency: Any,
    labels: Any,
    *,
    order: Order = "positive",
    fractions: Sequence[float] = FRACTIONS,
) -> PerturbationScores:
    """Measure accuracy while pixels are blacked out in the order of their saliency.

    "positive" begins with the most salient pixels: the lower the area under the curve
    the better the explanation. "negative" begins with the least salient: the higher the
    better. Pixels become black in [0, 1], before colours are normalised.

    Args:
      predict: function of normalised images (b, height, width, 3) to logits (b, v),
        such as a `Vim`.
      images: colours in [0, 1], (b, height, width, 3).
      saliency: (b, height, width), finite.
      labels: the right classes (b).
      order: "positive" or "negative".
      fractions: shares of pixels to black out.

    Raises:
      ValueError: shapes differ, colours are not in [0, 1], saliency is not finite, or
        the order or a fraction is unknown.

    Examples:
      >>> def is_bright(x):  # class 1 if the left pixel is bright
      ...     return np.stack([np.zeros(len(x)), x[:, 0, 0, 0]], axis=1)
      >>> image, saliency = np.ones((1, 1, 2, 3)), np.array([[[1.0, 0.0]]])
      >>> scores = perturbation_scores(
      ...     is_bright, image, saliency, [1], fractions=(0.0, 0.5)
      ... )
      >>> scores.accuracy.tolist(), scores.auc
      ([1.0, 0.0], 0.5)

    References:
      Chefer, Gur & Wolf, CVPR 2021, section 4, and Ali, Zimerman & Wolf, ACL 2025,
      table 1; their AUC is taken for the mean of the nine accuracies.
    """
    picture, heat = _check(images, saliency)
    right = np.asarray(labels)
    if right.shape != (len(picture),):
        raise ValueError(
            f"labels have shape {right.shape}, but there are {len(picture)} images."
        )
    correct = []
    for fraction in fractions:
        black = black_out(picture, heat, fraction, order=order)
        logits = predict(normalise(black.astype(np.float32)))
        correct.append(np.argmax(np.asarray(logits), axis=-1) == right)
    found = np.stack(correct)
    accuracy = found.mean(axis=1)
    return PerturbationScores(
        np.asarray(fractions, float), found, accuracy, area_under_curve(accuracy)
    )


def black_out(
    images: Any, saliency: Any, fraction: float, *, order: Order = "positive"
) -> Float[np.ndarray, "b height width colours"]:
    """Return images with a share of their pixels black.

    Args:
      images: (b, height, width, 3).
      saliency: (b, height, width); of equal pixels the first in rows go first.
      fraction: the share, of which whole pixels are taken.
      order: "positive" for the most salient, "negative" for the least salient.

    Raises:
      ValueError: shapes differ, saliency is not finite, or the order or the fraction is
        unknown.

    Examples:
      >>> image, saliency = np.ones((1, 1, 4, 1)), np.arange(4.0).reshape(1, 1, 4)
      >>> black_out(image, saliency, 0.5).ravel().tolist()
      [1.0, 1.0, 0.0, 0.0]
    """
    picture, heat = _check(images, saliency)
    if order not in ("positive", "negative"):
        raise ValueError(f"order={order!r}: give 'positive' or 'negative'.")
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction={fraction}: give a share from 0 to 1.")
    flat = heat.reshape(len(heat), -1)
    count = int(fraction * flat.shape[1] + 1e-9)
    ranks = np.argsort(-flat if order == "positive" else flat, axis=1, kind="stable")
    keep = np.ones(flat.shape, picture.dtype)
    np.put_along_axis(keep, ranks[:, :count], 0, axis=1)
    return picture * keep.reshape(heat.shape)[..., None]


def area_under_curve(
    accuracy: Any, fractions: Any = None, *, rule: Literal["mean", "trapezoid"] = "mean"
) -> float:
    """Return the area under a perturbation curve.

    Args:
      accuracy: at each step.
      fractions: where the steps are, for the trapezoids.
      rule: "mean" of the accuracies, or "trapezoid" for the area between the first and
        the last fraction, over their distance.

    Raises:
      ValueError: the rule is unknown, or trapezoids have no two fractions each.

    Examples:
      >>> area_under_curve([1.0, 0.5, 0.0])
      0.5
      >>> area_under_curve([1.0, 0.0, 0.0], [0.1, 0.2, 0.5], rule="trapezoid")
      0.125
    """
    values = np.asarray(accuracy, float)
    if rule == "mean":
        return float(values.mean())
    if rule != "trapezoid":
        raise ValueError(f"rule={rule!r}: give 'mean' or 'trapezoid'.")
    places = np.asarray([] if fractions is None else fractions, float)
    if places.shape != values.shape or places.size < 2:
        raise ValueError(
            "Trapezoids need one fraction per accuracy and at least two, but there "
            f"are {places.size} and {values.size}."
        )
    return float(np.trapezoid(values, places) / (places[-1] - places[0]))


def _check(images, saliency):
    picture, heat = np.asarray(images), np.asarray(saliency, np.float64)
    if picture.ndim != 4 or picture.shape[:3] != heat.shape:
        raise ValueError(
            "images must be (batch, height, width, colours) and saliency (batch, "
            f"height, width), but they are {picture.shape} and {heat.shape}."
        )
    if not np.issubdtype(picture.dtype, np.floating) or (
        picture.size and (picture.min() < 0 or picture.max() > 1)
    ):
        raise ValueError(
            f"images must be floats in [0, 1], not normalised ones, but are "
            f"{picture.dtype}; resize_and_crop(image) / 255 is such a picture."
        )
    if not np.isfinite(heat).all():
        raise ValueError("saliency is not finite; explain with finite values.")
    return picture, heat
