"""Inputs without some of their features: tokens, words or patches."""

from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jmamba.attention.relevance.completeness import blur

Filling = Literal["black", "mean", "blurred", "neighbours"]
FILLINGS: tuple[Filling, ...] = get_args(Filling)
"""What may stand in the place of a patch."""

STAYS = -1
"""Word number of tokens that are never removed."""


class WordRelevance(NamedTuple):
    """Relevance of words in place of tokens.

    Attributes:
      relevance: of every word, 0 where a text has fewer words than the longest.
      present: which words a text has.
    """

    relevance: Float[np.ndarray, "b f"]
    present: Bool[np.ndarray, "b f"]


def sum_over_words(relevance: Any, words: Any) -> WordRelevance:
    """Return the relevance of words, the sum over their tokens.

    Args:
      relevance: of tokens, (b, l).
      words: the word of each token counted from 0, (b, l); -1 for tokens of no word,
        such as padding.

    Raises:
      ValueError: shapes differ, or word numbers are no integers from -1 on.

    Examples:
      >>> words = [[0, 0, 1], [0, -1, -1]]
      >>> summed = sum_over_words([[0.5, 1.0, 2.0], [3.0, 9.0, 9.0]], words)
      >>> summed.relevance.tolist(), summed.present.tolist()
      ([[1.5, 2.0], [3.0, 0.0]], [[True, True], [True, False]])
    """
    heat = np.asarray(relevance, np.float64)
    numbers = _check_words(words, heat.shape)
    batch, count = len(heat), max(int(numbers.max(initial=-1)) + 1, 1)
    total, present = np.zeros((batch, count)), np.zeros((batch, count), bool)
    sample, token = np.nonzero(numbers != STAYS)
    place = sample, numbers[sample, token]
    np.add.at(total, place, heat[sample, token])
    present[place] = True
    return WordRelevance(total, present)


def replace_tokens(
    tokens: Any, gone: Any, *, replacement: int, words: Any = None
) -> Int[np.ndarray, "b l"]:
    """Return texts with some of their tokens replaced.

    Args:
      tokens: ids, (b, l).
      gone: which tokens are to go, (b, l), or which words, (b, f).
      replacement: the id that stands for nothing: of an unknown word, padding, a space.
      words: the word of each token counted from 0, (b, l); -1 for tokens that stay;
        None where every token is a word of its own.

    Raises:
      ValueError: shapes do not fit together, or ids or word numbers are no integers.

    Examples:
      >>> replace_tokens([[7, 8, 9]], [[True, False, True]], replacement=0).tolist()
      [[0, 8, 0]]
      >>> gone, words = [[True, False]], [[0, 0, 1]]
      >>> replace_tokens([[7, 8, 9]], gone, replacement=0, words=words).tolist()
      [[0, 0, 9]]
    """
    ids, mask = np.asarray(tokens), np.asarray(gone, bool)
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise ValueError(
            f"tokens must be integers (batch, length), but are {ids.dtype} of shape "
            f"{ids.shape}."
        )
    if words is not None:
        numbers = _check_words(words, ids.shape)
        if mask.ndim != 2 or mask.shape[1] <= numbers.max(initial=0):
            raise ValueError(
                f"gone has shape {mask.shape}, but there are words up to number "
                f"{numbers.max()}; give (batch, words)."
            )
        stays = numbers == STAYS
        mask = np.take_along_axis(mask, np.where(stays, 0, numbers), axis=1) & ~stays
    if mask.shape != ids.shape:
        raise ValueError(
            f"gone has shape {mask.shape} and tokens {ids.shape}: give one of each "
            "token, or words=... to say which word a token belongs to."
        )
    return np.where(mask, ids.dtype.type(replacement), ids)


def replace_patches(
    images: Any, gone: Any, *, patch: int, filling: Filling = "black"
) -> Float[np.ndarray, "b height width colours"]:
    """Return images with some of their patches replaced.

    Args:
      images: colours in [0, 1], before they are normalised, (b, height, width, 3).
      gone: which patches are to go, in rows from the top left, (b, patches).
      patch: side of a patch; patches may be larger than those that a model reads.
      filling: what stands in their place: "black"; the "mean" colour of each image;
        the same pixels "blurred", under a Gaussian an eighth of the sides wide; or
        the "neighbours", a mean of the pixels that are left, weighed by
        exp(-(|dx| + |dy|) / patch), and the mean colour where none is.

    Raises:
      ValueError: images are not cut into so many patches, or the filling is unknown.

    Examples:
      >>> image = np.arange(4.0).reshape(1, 1, 4, 1)
      >>> replace_patches(image, [[False, True]], patch=1)
      Traceback (most recent call last):
      ...
      ValueError: gone has shape (1, 2), but 1 images of 1 x 4 pixels have 4 patches ...
      >>> image = np.arange(8.0).reshape(1, 2, 4, 1)
      >>> replace_patches(image, [[False, True]], patch=2)[0, :, :, 0].tolist()
      [[0.0, 1.0, 0.0, 0.0], [4.0, 5.0, 0.0, 0.0]]

    References:
      Knutsson & Westin, "Normalized and differential convolution", CVPR 1993, for
      neighbours; Rong et al., "A consistent and efficient evaluation strategy for
      attribution methods", ICML 2022, for why the filling matters.
    """
    picture, mask = np.asarray(images), np.asarray(gone, bool)
    if picture.ndim != 4 or not np.issubdtype(picture.dtype, np.floating):
        raise ValueError(
            "images must be floats (batch, height, width, colours), but are "
            f"{picture.dtype} of shape {picture.shape}."
        )
    if filling not in FILLINGS:
        known = ", ".join(map(repr, FILLINGS))
        raise ValueError(f"filling={filling!r}: give one of {known}.")
    batch, height, width, _ = picture.shape
    if patch < 1 or height % patch or width % patch:
        raise ValueError(
            f"patch={patch} does not divide images of {height} x {width} pixels; give "
            "a side that does."
        )
    rows, columns = height // patch, width // patch
    if mask.shape != (batch, rows * columns):
        raise ValueError(
            f"gone has shape {mask.shape}, but {batch} images of {height} x {width} "
            f"pixels have {rows * columns} patches of side {patch} each; leave the "
            "class token out, as patch_grid does."
        )
    grid = mask.reshape(batch, rows, columns)
    pixels = grid.repeat(patch, axis=1).repeat(patch, axis=2)[..., None]
    return np.where(pixels, _fill(picture, pixels, patch, filling), picture)


def _fill(picture, gone, patch: int, filling: Filling) -> np.ndarray:
    """Return what stands in the place of pixels, everywhere."""
    if filling == "black":
        return np.zeros_like(picture[:, :1, :1])
    if filling == "blurred":
        return np.asarray(blur(jnp.asarray(picture)), picture.dtype)
    mean = picture.mean(axis=(1, 2), keepdims=True)
    if filling == "mean":
        return mean
    left = (~gone).astype(picture.dtype)
    near = [
        np.exp(-np.abs(np.subtract.outer(np.arange(side), np.arange(side))) / patch)
        for side in picture.shape[1:3]
    ]

    def spread(values):
        rows = np.tensordot(near[0], values, (1, 1))  # h b w c
        return np.tensordot(near[1], rows, (1, 2)).transpose(2, 1, 0, 3)

    weight = spread(left)
    known = spread(left * picture) / np.where(weight > 0, weight, 1)
    return np.where(weight > 0, known, mean).astype(picture.dtype)


def _check_words(words, shape) -> np.ndarray:
    numbers = np.asarray(words)
    if numbers.shape != shape or numbers.dtype.kind not in "iu" or len(shape) != 2:
        raise ValueError(
            f"words must be integers, one for each token {shape}, but are "
            f"{numbers.dtype} of shape {numbers.shape}."
        )
    if numbers.size and numbers.min() < STAYS:
        raise ValueError(
            f"words hold {numbers.min()}: count them from 0, and give -1 to tokens "
            "that stay."
        )
    return numbers
