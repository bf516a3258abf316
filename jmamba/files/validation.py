"""Checking what a checkpoint holds against what the model needs, before reading it."""

from collections.abc import Callable, Collection, Mapping

from jmamba.files.errors import CheckpointError, compress
from jmamba.files.tensors import FLOATS, StoredTensor


def check_keys(
    needed: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    where: str,
    *,
    says: str = "its config.json",
    explain: Callable[[Mapping[str, tuple[int, ...]]], str],
) -> None:
    """Raise unless the found names and shapes are the needed ones.

    Args:
      needed: name -> shape that the model needs.
      found: name -> shape that is there.
      where: what to call the checkpoint.
      says: what the needed shapes are from.
      explain: makes the last sentence of the message from what is there.

    Raises:
      CheckpointError: tensors are missing, left over or of another shape; the message
        lists all of them, and the sizes that the found ones have.
    """
    shapes = [
        f"{key} is {found[key]}, needs {shape}"
        for key, shape in needed.items()
        if key in found and tuple(found[key]) != tuple(shape)
    ]
    lists = {
        "missing": compress(key for key in needed if key not in found),
        "not part of the model": compress(key for key in found if key not in needed),
        "of another shape": compress(shapes, separator="; "),
    }
    wrong = "; ".join(f"{name}: {keys}" for name, keys in lists.items() if keys)
    if wrong:
        raise CheckpointError(
            f"The weights in {where} do not fit {says}. Tensors {wrong}. "
            f"{explain(found)}"
        )


def check_layer_count(
    num_layers: int,
    found: Mapping[str, tuple[int, ...]],
    where: str,
    *,
    explain: Callable[[Mapping[str, tuple[int, ...]]], str],
) -> None:
    """Raise if a model has more layers than there are tensors, before it is made.

    Args:
      num_layers: of the model.
      found: name -> shape that is there.
      where: what to call the checkpoint.
      explain: makes the last sentence of the message from what is there.

    Raises:
      CheckpointError: it has more.
    """
    if num_layers > len(found):
        raise CheckpointError(
            f"The weights in {where} do not fit its config.json, which says "
            f"{num_layers:,} layers: there are {len(found)} tensors. {explain(found)}"
        )


def check_floats(
    stored: Mapping[str, StoredTensor], needed: Collection[str], where: str
) -> None:
    """Raise if weights are not plain floats.

    Tensors that a model needs must be, and those that may stand for one that is
    missing, such as x_proj.qweight.

    Args:
      stored: name -> tensor that is there.
      needed: names that the model needs.
      where: what to call the checkpoint.

    Raises:
      CheckpointError: they are not.
    """
    missing = {_module(key) for key in needed if key not in stored}
    odd = [
        f"{key} ({tensor.dtype})"
        for key, tensor in stored.items()
        if tensor.dtype not in FLOATS and (key in needed or _module(key) in missing)
    ]
    if odd:
        raise CheckpointError(
            f"{where} holds tensors that are not plain floats: {compress(odd)}. "
            "Quantised checkpoints are not read; use the original weights ("
            + ", ".join(FLOATS)
            + ")."
        )


def _module(key: str) -> str:
    return key.rpartition(".")[0]
