"""Pictures of more than 8 bits: which of their numbers are black and white."""

import warnings
from typing import Any

import numpy as np

from jmamba.files.errors import FileError

DEPTHS = (1, 8, 10, 12, 14, 16)
"""Bits per pixel that cameras and scanners deliver, whatever file they are put in."""

WORD = 2**16 - 1
"""White where all 16 bits are used."""

DARKEST = 64
"""Pictures of 16 bits per colour whose brightest one, cut to 8, is below are refused:
at most 14 of their bits are in use."""


def scale_levels(values: np.ndarray, what: str = "The picture") -> np.ndarray:
    """Return levels of any depth as 8 bits, from black to white.

    Warns of any range but the whole of 16 bits, as it was told from the data.

    Args:
      values: integers or floats.
      what: they are, for the message.

    Raises:
      ValueError: a value is not finite.

    Examples:
      >>> scale_levels(np.array([0, 32768, 65535])).tolist()
      [0, 127, 255]
    """
    low, high = level_range(values, what)
    if (low, high) != (0, WORD):
        warnings.warn(
            f"{what} holds numbers from {values.min():g} to {values.max():g}, of which "
            f"{low:g} is taken for black and {high:g} for white.",
            stacklevel=1,
        )
    shares = (values.astype(np.float64) - low) / (high - low)
    return np.floor(255 * shares + 1e-9).astype(np.uint8)


def level_range(values: np.ndarray, what: str = "The picture") -> tuple[float, float]:
    """Return which numbers are black and white.

    Integers up to 65535 are from 0 to the most that as many bits hold as are in use;
    floats within [0, 1] from 0 to 1. Others reach as far as they do, 0 included.

    Args:
      values: integers or floats.
      what: they are, for the message.

    Raises:
      ValueError: a value is not finite.

    Examples:
      >>> level_range(np.array([17, 3000])), level_range(np.array([0.2, 0.7]))
      ((0.0, 4095.0), (0.0, 1.0))
      >>> level_range(np.array([-2.5, 0.5])), level_range(np.array([0, 70000]))
      ((-2.5, 1.0), (0.0, 70000.0))
    """
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise FileError(f"{what} holds numbers that are not finite; fill them in.")
    if values.dtype.kind == "f":
        return min(low, 0.0), max(high, 1.0)
    fitting = [2.0**bits - 1 for bits in DEPTHS if high < 2**bits]
    return min(low, 0.0), fitting[0] if low >= 0 and fitting else max(high, 1.0)


def check_depth(picture: Any, raw_mode: str, what: str) -> None:
    """Raise if the colours of a picture came out black because they are few bits of 16.

    Pillow keeps the upper 8 bits of each colour, so that 12 bits in a file of 16 leave
    nothing that could be made brighter.

    Args:
      picture: as Pillow decoded it.
      raw_mode: what Pillow calls the numbers in the file.
      what: it is, for the message.

    Raises:
      ValueError: no colour uses the upper bits.
    """
    if "16" not in raw_mode or picture.mode not in ("RGB", "RGBA", "LA"):
        return
    brightest = np.asarray(picture.convert("RGB")).max()
    if brightest < DARKEST:
        raise FileError(
            f"{what} has 16 bits per colour but colours of at most "
            f"{256 * int(brightest) + 255} of {WORD}, which would look black. Save it "
            "with 8 bits per colour, its own white at 255."
        )
