"""Resampling a grid of vectors to another number of rows and columns."""

import numpy as np

CUBIC = -0.75
"""Slope of the cubic kernel at 1, that of PyTorch and OpenCV (Keys' own is -0.5)."""


def bicubic_matrix(size_in: int, size_out: int) -> np.ndarray:
    """Return the matrix that resamples a row of samples, (size_out, size_in), float64.

    Output i lies at (i + 1/2) size_in / size_out - 1/2; the four samples around it are
    weighted with the cubic convolution kernel. Samples beyond an end count as the last
    one there. Nothing is smoothed where the row gets shorter.

    Examples:
      >>> bicubic_matrix(3, 3).tolist()
      [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
      >>> bicubic_matrix(4, 2)[0].round(3).tolist()  # half-way between samples 0 and 1
      [0.5, 0.594, -0.094, 0.0]

    References:
      Keys, "Cubic convolution interpolation for digital image processing", 1981, eq. 4.
    """
    place = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
    first = np.floor(place).astype(int) - 1
    weights = np.zeros((size_out, size_in))
    for tap in range(4):
        sample = first + tap
        columns = np.clip(sample, 0, size_in - 1)
        np.add.at(weights, (np.arange(size_out), columns), _cubic(place - sample))
    return weights


def _cubic(distance: np.ndarray) -> np.ndarray:
    s, a = np.abs(distance), CUBIC
    near = (a + 2) * s**3 - (a + 3) * s**2 + 1
    far = a * s**3 - 5 * a * s**2 + 8 * a * s - 4 * a
    return np.where(s <= 1, near, np.where(s < 2, far, 0.0))
