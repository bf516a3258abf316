"""A tensor of a weight file, before it is read."""

from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np

FLOATS = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""safetensors' names of the dtypes that weights may have."""


class StoredTensor(NamedTuple):
    """Shape and dtype of a tensor of a weight file.

    `read()` gets its values, `read(part)` those of a part, a tuple of slices.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[..., np.ndarray]
