"""The option `--remat`: what the backward pass computes again."""

from enum import StrEnum
from typing import Any

import jax


class Recomputed(StrEnum):
    """What `--remat` may be: whole blocks, all but products, or nothing."""

    full = "full"
    products = "products"
    none = "none"


POLICIES: dict[str, Any] = {
    "full": True,
    "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "none": False,
}
"""What is computed again -> what a model's `remat` says of it."""
