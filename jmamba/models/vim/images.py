"""From a picture to what a vision model reads."""

import os
import warnings
from typing import Any

import numpy as np

from jmamba.files.errors import FileError
from jmamba.files.untrusted import as_path, brief_path, check_regular, reading
from jmamba.models.vim.config import IMAGENET_MEAN, IMAGENET_STD, VimConfig
from jmamba.models.vim.levels import check_depth, scale_levels

FORMATS = (
    *("PNG", "JPEG", "MPO", "JPEG2000", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "ICO"),
    *("PPM", "TGA", "QOI", "PCX", "DDS", "ICNS", "SGI"),
)
"""What Pillow decodes by itself: of others, such as EPS, it asks further programs."""

RESAMPLINGS = ("bicubic", "bilinear", "nearest")

MOST_PIXELS = 2**26
"""A picture is not resized to more."""

LONGEST = 4
"""Sides of a picture that is read whole, at most: what is longer gets narrower."""


def preprocess(
    image: Any,
    *,
    crop: int = 224,
    resize: int | None = None,
    resample: str = "bicubic",
) -> np.ndarray:
    """Return a picture as a model reads it: resized, cropped, normalised.

        (crop(resize(image)) / 255 - mean) / deviation

    The defaults are those that Vim is evaluated with: the shorter side becomes 256 and
    the middle 224 x 224 pixels are kept. The Hidden Attention of Mamba Models resizes
    to 224, that is `resize=224`.

    Args:
      image: a file, a `PIL.Image`, or an array (height, width) or (height, width, 3)
        of integers from 0 to 255.
      crop: side of the square that is kept.
      resize: the shorter side before cropping; None for crop / 0.875.
      resample: "bicubic", "bilinear" or "nearest".

    Returns:
      Float32 (1, crop, crop, 3).

    Raises:
      ValueError: the file is no picture or cannot be read, the array has another shape
        or type, or sizes do not fit together.

    Examples:
      >>> grey = np.full((300, 400, 3), 128, np.uint8)
      >>> preprocess(grey).shape
      (1, 224, 224, 3)
    """
    resized = resize_and_crop(image, crop=crop, resize=resize, resample=resample)
    return normalise(np.asarray(resized, np.float32)[None] / 255)


def normalise(pixels: np.ndarray) -> np.ndarray:
    """Return colours in [0, 1] with ImageNet's mean taken off, over its deviation.

    Examples:
      >>> black = normalise(np.zeros((1, 1, 3), np.float32))
      >>> [f"{colour:.2f}" for colour in black[0, 0]]
      ['-2.12', '-2.04', '-1.80']
    """
    mean, deviation = (np.asarray(x, np.float32) for x in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / deviation


def preprocessing_of(config: VimConfig) -> dict[str, Any]:
    """Return options of `preprocess` that keep all of a picture's shorter side.

    Examples:
      >>> preprocessing_of(VimConfig.named("vim-tiny"))
      {'crop': 224, 'resize': 224}
    """
    return {"crop": config.image_size, "resize": config.image_size}


def resize_whole(image: Any, config: VimConfig, *, resample: str = "bicubic") -> Any:
    """Return a whole picture in the size that a model reads best, as a `PIL.Image`.

    The shorter side becomes the model's own, and the longer keeps its ratio up to whole
    patches and to four times the shorter. Nothing is cut off or filled in; the model
    interpolates the embedding of places.

    Args:
      image: as in `open_image`.
      config: of the model.
      resample: as in `preprocess`.

    Raises:
      ValueError: as in `preprocess`.

    Examples:
      >>> resize_whole(np.zeros((300, 400), np.uint8), VimConfig.named("vim-tiny")).size
      (304, 224)
    """
    picture = open_image(image)
    short, patch, stride = config.image_size, config.patch_size, config.stride
    ratio = max(picture.size) / min(picture.size)
    steps = round((short * min(ratio, LONGEST) - patch) / stride)
    long = max(short, patch + steps * stride) if ratio > 1 else short
    size = (long, short) if picture.width > picture.height else (short, long)
    return picture.resize(size, _resampling(resample))


def resize_and_crop(
    image: Any, *, crop: int = 224, resize: int | None = None, resample: str = "bicubic"
) -> Any:
    """Return the part of a picture that `preprocess` keeps, as a `PIL.Image`.

    Raises:
      ValueError: as in `preprocess`.
    """
    filtering = _resampling(resample)
    resize = round(crop / 0.875) if resize is None else resize
    if not 1 <= crop <= resize:
        raise ValueError(
            f"crop={crop} and resize={resize}: give 1 <= crop <= resize, as the square "
            "that is kept lies within the resized picture."
        )
    picture = open_image(image)
    width, height = picture.size
    short = min(width, height)
    size = (int(resize * width / short), int(resize * height / short))
    if size[0] * size[1] > MOST_PIXELS:
        raise ValueError(
            f"A picture of {width} x {height} pixels would be resized to {size[0]} x "
            f"{size[1]} before its middle is kept; crop it to a shape that is less "
            "long."
        )
    picture = picture.resize(size, filtering)
    left, top = (round((side - crop) / 2) for side in size)
    return picture.crop((left, top, left + crop, top + crop))


def _resampling(resample: str) -> Any:
    from PIL import Image

    if resample not in RESAMPLINGS:
        raise ValueError(
            f"resample={resample!r}: give one of {', '.join(RESAMPLINGS)}."
        )
    return Image.Resampling[resample.upper()]


def open_image(image: Any) -> Any:
    """Return a picture as it is seen, in red, green and blue, as a `PIL.Image`.

    What is transparent becomes white, and a photograph is turned as its camera noted.
    More than 8 bits become 8; which numbers are black and white is told from the data
    where the file does not say, and warned of once.

    Args:
      image: a file, a `PIL.Image`, or an array (height, width) or (height, width, 3)
        of integers from 0 to 255.

    Raises:
      ValueError: the file is no picture, cannot be read or is too large to be read
        safely, has 16 bits per colour of which the upper ones are not used, or numbers
        that are not finite; or the array has another shape or type.
    """
    from PIL import Image

    if isinstance(image, Image.Image):
        return _flatten(image, "The picture")
    if isinstance(image, str | os.PathLike):
        return _open_file(image)
    array = np.asarray(image)
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if not fits or 0 in array.shape or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            "A picture must be a file, a PIL.Image or integers of shape (height, width,"
            f" 3), but is {array.dtype} of shape {array.shape}. Colours in [0, 1] "
            "become integers by (255 * x).astype(np.uint8)."
        )
    if array.min() < 0 or array.max() > 255:
        raise ValueError(
            f"Colours must lie in [0, 255], but range from {array.min()} to "
            f"{array.max()}."
        )
    return Image.fromarray(array.astype(np.uint8)).convert("RGB")


def _open_file(given: str | os.PathLike) -> Any:
    from PIL import Image

    path = as_path(given, error_class=FileError)
    if not path.exists():
        raise FileError(f"There is no picture {brief_path(path)}; check the name.")
    check_regular(path, error_class=FileError)
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    advice = f"give a whole {', '.join(FORMATS[:2])} or other file that Pillow knows"
    with reading(
        path, "cannot be read as a picture", advice, error_class=FileError
    ), warnings.catch_warnings():  # fmt: skip
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=formats) as opened:
                raw_mode = _raw_mode(opened)
                opened.load()
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise FileError(
                f"{path} has more than {Image.MAX_IMAGE_PIXELS:,} pixels, which may be "
                "an attack on the memory of whoever opens it; shrink it first."
            ) from error
        check_depth(opened, raw_mode, str(path))
        return _flatten(opened, str(path), raw_mode)


def _raw_mode(opened: Any) -> str:
    """Return what Pillow calls the numbers in a file, before it decodes them."""
    args = opened.tile[0].args if opened.tile else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _flatten(picture: Any, what: str, raw_mode: str = "") -> Any:
    """Return a picture of any mode in red, green and blue."""
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):  # which Pillow would cut off at 255
        values = np.asarray(picture)
        if raw_mode.startswith("I;32") and not raw_mode.endswith("S"):
            values = values.view(np.uint32)  # unsigned, which Pillow has no mode for
        picture = Image.fromarray(scale_levels(values, what))
    if picture.mode == "La":  # which Pillow turns into nothing but LA
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")
