"""Images with masks of their objects: ImageNet-Segmentation, or folders of pictures."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from jaxtyping import Int, Int8, UInt8

from jmamba.evaluation.segmentation import UNLABELLED
from jmamba.files.untrusted import as_path
from jmamba.models.vim.images import RESAMPLINGS, open_image

LOSSLESS = {".png", ".bmp", ".gif", ".tif", ".tiff", ".pgm"}
"""Suffixes of files whose pixels are what was put in: masks need that."""


class MaskedImage(NamedTuple):
    """A picture and where its object is.

    Attributes:
      name: of the picture, the same in every run.
      image: colours from 0 to 255.
      mask: 1 for the object, 0 for the rest, -1 for pixels that do not count.
    """

    name: str
    image: UInt8[np.ndarray, "height width 3"]
    mask: Int8[np.ndarray, "height width"]


@dataclasses.dataclass(frozen=True)
class MaskedImages(Sequence[MaskedImage]):
    """A data set that is read one picture at a time, when it is asked for.

    Attributes:
      names: of the pictures.
      places: where `load` finds each.
      load: function of a name and a place to a `MaskedImage`.

    Examples:
      >>> grey = np.full((2, 2, 3), 128, np.uint8)
      >>> def load(name, value):
      ...     return MaskedImage(name, grey, np.full((2, 2), value, np.int8))
      >>> data = MaskedImages(("a", "b", "c"), (0, 1, -1), load)
      >>> len(data), data[1].mask.tolist(), [item.name for item in data[1:]]
      (3, [[1, 1], [1, 1]], ['b', 'c'])
    """

    names: tuple[str, ...]
    places: tuple[Any, ...]
    load: Callable[[str, Any], MaskedImage]

    def __len__(self) -> int:
        """Return how many pictures there are."""
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> MaskedImage: ...
    @overload
    def __getitem__(self, index: slice) -> "MaskedImages": ...
    def __getitem__(self, index: int | slice) -> "MaskedImage | MaskedImages":
        """Read one picture, or return part of the data set unread."""
        if isinstance(index, slice):
            return MaskedImages(self.names[index], self.places[index], self.load)
        return self.load(self.names[index], self.places[index])


def open_imagenet_segmentation(path: str | Path) -> MaskedImages:
    """Return the images of ImageNet-Segmentation, a file `gtsegs_ijcv.mat`.

    The file is HDF5: `value/img` and `value/gt` hold one reference for each image. The
    first leads to its colours (colours, width, height), the second, through another
    reference, to its mask (width, height), of which every non-zero pixel is object.
    Where an image has several masks, the first counts.

    Args:
      path: of the file.

    Raises:
      ImportError: h5py is missing.
      ValueError: the file is none of that kind; a picture, when it is read, is broken
        or has a mask of another size.

    References:
      Guillaumin, Kuettel & Ferrari, "ImageNet auto-annotation with segmentation
      propagation", IJCV 2014.
    """
    path = as_path(path)
    with _open_hdf5(path) as file:
        found = [file.get(f"value/{field}") for field in ("img", "gt")]
        if any(len(getattr(field, "shape", ())) == 0 for field in found):
            raise ValueError(
                f"{path} does not hold value/img and value/gt; give gtsegs_ijcv.mat of "
                "ImageNet-Segmentation."
            )
        counts = [field.size for field in found]
    if counts[0] != counts[1]:
        raise ValueError(f"{path} holds {counts[0]} images but {counts[1]} masks.")
    names = tuple(f"{number:05d}" for number in range(counts[0]))

    def load(name: str, number: int) -> MaskedImage:
        with _open_hdf5(path) as file:
            try:
                image = _follow(file, "img", number).T  # colours width height -> h w c
                mask = _follow(file, "gt", number).T
            except _BROKEN as error:
                raise ValueError(
                    f"Image {name} of {path} cannot be read ({error}); get the file "
                    "anew."
                ) from error
        return _combine(name, _colours(image, name), mask != 0)

    return MaskedImages(names, tuple(range(counts[0])), load)


_BROKEN = (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError)
"""What reading through references that lead nowhere may raise."""


def _open_hdf5(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            f"{path} is a MATLAB 7.3 file, which h5py reads: pip install "
            '"jmamba[segmentation]".'
        ) from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read as a MATLAB 7.3 file ({error}); give the whole "
            "gtsegs_ijcv.mat of ImageNet-Segmentation."
        ) from error


def _follow(file: Any, field: str, number: int) -> np.ndarray:
    """Return the array behind an image's reference, or a reference to a reference."""
    found = file[file[f"value/{field}"][()].flat[number]]
    while found.dtype == object:
        found = file[found[()].flat[0]]
    return found[()]


def _colours(image: np.ndarray, name: str) -> np.ndarray:
    if image.ndim == 2:
        image = np.stack([image] * 3, axis=-1)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"Image {name} is {image.dtype} of shape {image.shape}, and not 8-bit grey "
            "or red, green and blue."
        )
    return np.ascontiguousarray(image)


def open_mask_folder(
    folder: str | Path, *, unlabelled: int | None = None
) -> MaskedImages:
    """Return the pictures of `folder/images` with the masks of `folder/masks`.

    The mask of `images/cat.jpg` is `masks/cat.png`, or another lossless file of that
    stem with one value for each pixel: 0 is background and everything else object, 255
    included, unless it is the value that does not count. Masks without a picture are
    ignored.

    Args:
      folder: holds images/ and masks/.
      unlabelled: value of mask pixels that do not count, such as 255 in Pascal VOC;
        None where all count.

    Raises:
      ValueError: a folder or mask is missing, two files have one stem; a picture, when
        it is read, is broken, or its mask has another size or several values per pixel.
    """
    folder = as_path(folder)
    images, masks = (_files_of(folder / part) for part in ("images", "masks"))
    missing = sorted(images.keys() - masks.keys())
    if missing or not images:
        raise ValueError(
            f"{folder}: {len(missing)} of {len(images)} pictures in images/ have no "
            f"mask in masks/ ({', '.join(missing[:5]) or 'there is no picture'}). Give "
            "each a lossless file of the same stem, images/cat.jpg and masks/cat.png."
        )

    def load(name: str, paths: tuple[Path, Path]) -> MaskedImage:
        image = np.asarray(open_image(paths[0]))
        values = _read_mask(paths[1])
        mask = (values != 0).astype(np.int8)
        if unlabelled is not None:
            mask[values == unlabelled] = UNLABELLED
        return _combine(name, image, mask)

    names = tuple(sorted(images))
    return MaskedImages(names, tuple((images[n], masks[n]) for n in names), load)


def _files_of(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise ValueError(
            f"There is no folder {folder}; give one that holds images/ and masks/."
        )
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() or path.name.startswith("."):
            continue
        if path.stem in files:
            raise ValueError(
                f"{files[path.stem]} and {path.name} have one stem; keep one of them."
            )
        files[path.stem] = path
    return files


def _read_mask(path: Path) -> Int[np.ndarray, "height width"]:
    from PIL import Image

    if path.suffix.lower() not in LOSSLESS:
        raise ValueError(
            f"{path} is no lossless file, so that its values are not those of a mask; "
            "give a PNG."
        )
    try:
        with Image.open(path) as opened:
            values = np.asarray(opened)  # of a palette its numbers
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} cannot be read as a mask ({error}); give a whole PNG."
        ) from error
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise ValueError(
            f"{path} holds {values.dtype} of shape {values.shape}, but a mask has one "
            "integer for each pixel; save it in grey."
        )
    return values.astype(int)


def _combine(name: str, image: np.ndarray, mask: np.ndarray) -> MaskedImage:
    if image.shape[:2] != mask.shape:
        raise ValueError(
            f"Image {name} has {image.shape[0]} x {image.shape[1]} pixels and its mask "
            f"{' x '.join(map(str, mask.shape))}; they must be of one size."
        )
    return MaskedImage(name, image, mask.astype(np.int8))


def resize_masked_image(
    item: MaskedImage, side: int = 224, *, resample: str = "bilinear"
) -> MaskedImage:
    """Return a picture and its mask as a square, squeezed and not cropped.

    The mask is resized to nearest neighbours, so that it keeps its values.

    Args:
      item: the picture.
      side: of the square.
      resample: how colours are resized: "bicubic", "bilinear" or "nearest".

    Raises:
      ValueError: the side is not positive, or the resampling is unknown.

    Examples:
      >>> image = np.full((2, 4, 3), 7, np.uint8)
      >>> mask = np.array([[0, 0, 1, 1], [-1, -1, 1, 1]], np.int8)
      >>> resize_masked_image(MaskedImage("a", image, mask), 2).mask.tolist()
      [[0, 1], [-1, 1]]

    References:
      The protocol of Chefer, Gur & Wolf, CVPR 2021, for segmentation.
    """
    from PIL import Image

    if side < 1 or resample not in RESAMPLINGS:
        raise ValueError(
            f"side={side}, resample={resample!r}: give a positive side, and one of "
            f"{', '.join(RESAMPLINGS)}."
        )
    size = (side, side)
    colours = Image.fromarray(item.image).resize(size, _resampling(resample))
    shifted = Image.fromarray((item.mask - UNLABELLED).astype(np.uint8))
    mask = np.asarray(shifted.resize(size, _resampling("nearest"))).astype(np.int8)
    return MaskedImage(
        item.name, np.asarray(colours), (mask + UNLABELLED).astype(np.int8)
    )


def _resampling(name: str) -> Any:
    from PIL import Image

    return Image.Resampling[name.upper()]
