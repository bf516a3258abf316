"""What processes of one run say to each other."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def all_agree(vote: bool) -> bool:
    """Return whether all processes say yes; each waits for the others.

    Examples:
      >>> all_agree(True)
      True
    """
    if jax.process_count() == 1:
        return vote
    return bool(np.all(multihost_utils.process_allgather(np.asarray(vote))))


def are_to_stop(step: int) -> bool:
    """Return whether some process was sent SIGTERM: yes on all of them at one step.

    Args:
      step: that each process asks about, in order.

    Examples:
      >>> are_to_stop(1)
      False
    """
    is_one = jax.process_count() == 1
    return not is_one and multihost_utils.reached_preemption_sync_point(step)


def gather_array(x: Any) -> np.ndarray:
    """Return all of an array, wherever its parts are; every process has to ask.

    Examples:
      >>> gather_array(np.arange(3)).tolist()
      [0, 1, 2]
    """
    if getattr(x, "is_fully_addressable", True):
        return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))
