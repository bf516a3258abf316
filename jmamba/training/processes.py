"""What processes of one run say to each other."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

Model = TypeVar("Model", bound=nnx.Module)


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


def gather_model(model: Model) -> Model | None:
    """Return a model whose arrays the first process has whole; None on the others.

    Where one process has all of them the model stays as it is. Else every process has
    to ask, and has one array whole at a time.

    Examples:
      >>> model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
      >>> gather_model(model) is model
      True
    """
    graphdef, state = nnx.split(model)
    if all(x.is_fully_addressable for x in jax.tree.leaves(state)):
        return model
    leaves, structure = jax.tree.flatten(state)
    is_first, kept = jax.process_index() == 0, []
    for x in leaves:
        whole = gather_array(x)
        if is_first:
            kept.append(jnp.asarray(whole))
    return nnx.merge(graphdef, jax.tree.unflatten(structure, kept)) if kept else None


def gather_array(x: Any) -> np.ndarray:
    """Return all of an array, wherever its parts are; every process has to ask.

    Examples:
      >>> gather_array(np.arange(3)).tolist()
      [0, 1, 2]
    """
    if getattr(x, "is_fully_addressable", True):
        return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))
