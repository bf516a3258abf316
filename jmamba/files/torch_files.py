"""PyTorch's own files (.bin, .pth), read without running what they may contain."""

import argparse
import pickle
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jmamba.files.archives import check_torch_file, is_archive
from jmamba.files.errors import CheckpointError, compress
from jmamba.files.tensors import FLOATS, StoredTensor
from jmamba.files.untrusted import first_line, reading

PARTS = ("model", "model_ema")
"""Where training checkpoints keep weights, and their moving average."""

HOLDERS = ("state_dict", "model_state_dict", "model", "module")
"""What trainers call the entry of a file that holds the weights."""

_DEEPEST = 8  # dicts in each other; a file may hold one that holds itself

OLDEST_TORCH = (2, 6)
"""Before it, a file could run code in spite of weights_only (CVE-2025-32434)."""

_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def check_part(part: str) -> None:
    """Raise a ValueError unless training checkpoints have such a part."""
    if part not in PARTS:
        raise ValueError(f"part must be {' or '.join(PARTS)}, but is {part!r}.")


@contextmanager
def open_torch(
    file: Path, part: str | None = None
) -> Iterator[dict[str, StoredTensor]]:
    """Open a state dict that torch.save wrote; tensors are mapped, not copied.

    Args:
      file: the file.
      part: key of the state dict in a training checkpoint, which may also hold plain
        values, tensors and an argparse.Namespace; a path of keys, "model/state_dict",
        if dicts lie in each other.

    Raises:
      CheckpointError: torch is missing or too old, the file is cut short, holds
        anything but tensors, or is not a dict from names to tensors.
    """
    state = _load(file)
    with reading(file, "is no plain state dict", _SAVE_PLAIN):
        found = _tensors(file, _part_of(state, part, file))
    yield found


_SAVE_PLAIN = "save the model's own with torch.save(model.state_dict(), path)"


def _part_of(state: Any, part: str | None, file: Path) -> dict[str, Any]:
    """Return the tensors of a part of a training checkpoint, plain values left out."""
    for name in part.split("/") if part is not None else ():
        if not isinstance(state, dict) or not isinstance(state.get(name), dict):
            has = ", ".join(map(str, state)) if isinstance(state, dict) else "no names"
            raise CheckpointError(f"{file} holds no {name!r}; it holds {has}.")
        state = state[name]
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{file} holds no tensors by name (a state dict).")
    state = {key: value for key, value in state.items() if not _is_plain(value)}
    odd = [
        key if isinstance(key, str) else repr(key)
        for key, value in state.items()
        if not _is_tensor(value) or not isinstance(key, str)
    ]
    if odd:
        raise CheckpointError(
            f"{file} is not a plain state dict, it also holds {compress(odd)}. "
            f"S{_SAVE_PLAIN[1:]}."
        )
    return state


def _tensors(file: Path, state: dict[str, Any]) -> dict[str, StoredTensor]:
    """Return tensors that can be read, of no more bytes than the file accounts for."""
    found, total = {}, 0
    for key, tensor in state.items():
        dtype = _dtype(tensor)
        if dtype in FLOATS:
            total += tensor.numel() * tensor.element_size()
        found[key] = StoredTensor(
            tuple(tensor.shape), dtype, partial(_to_numpy, file, tensor)
        )
    size = file.stat().st_size
    if total > 2 * size:  # tied matrices are there once and have two names
        raise CheckpointError(
            f"{file} has {size:,} bytes and tensors of {total:,}: they share memory. "
            "Save them with torch.save({name: x.clone() for name, x in "
            "model.state_dict().items()}, path)."
        )
    return found


def _dtype(tensor: Any) -> str:
    """Return the name of a dtype, none of a float for tensors that hold no values."""
    name = str(tensor.dtype).removeprefix("torch.")
    layout = str(tensor.layout).removeprefix("torch.")
    if layout != "strided" or tensor.is_nested:
        return f"{layout} {name}"
    if tensor.device.type != "cpu":
        return f"{name} without values"
    return _NAMES.get(name, name)


def find_part(file: Path) -> str | None:
    """Return under which key a file holds its state dict; None if it is one itself.

    Trainers save it beside what else they need: `{"state_dict": ..., "epoch": 3}`.

    Raises:
      CheckpointError: as `open_torch`.
    """
    state, path = _load(file), []
    while isinstance(state, dict) and not any(map(_is_tensor, state.values())):
        if len(path) == _DEEPEST:
            raise CheckpointError(
                f"{file} holds dicts more than {_DEEPEST} deep; {_SAVE_PLAIN}."
            )
        held = [name for name in HOLDERS if isinstance(state.get(name), dict)]
        if not held:
            break
        path.append(held[0])
        state = state[held[0]]
    return "/".join(path) or None


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "element_size")


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def read_training_checkpoint(file: Path) -> dict[str, Any]:
    """Return all that a file of torch.save holds, tensors mapped and not read.

    Plain values, tensors and an argparse.Namespace are read, nothing else.

    Raises:
      CheckpointError: torch is missing or too old, the file is cut short, or holds
        anything else.
    """
    state = _load(file)
    return state if isinstance(state, dict) else {}


def _load(file: Path):
    torch = require_torch(f"Reading {file.name}")
    with torch.serialization.safe_globals([argparse.Namespace]):
        return _load_safely(torch, file)


def _load_safely(torch: Any, file: Path):
    check_torch_file(file)
    # mmap needs the zip format; files older than torch 1.6 are read whole
    options = {"weights_only": True, "map_location": "cpu", "mmap": is_archive(file)}
    with reading(file, "is cut short or no PyTorch file"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a damaged file seems to hold
        try:
            return torch.load(file, **options)
        except pickle.UnpicklingError as error:
            says = str(error)
            if "Unsupported global" not in says and "weights_only" not in says:
                raise
            raise CheckpointError(
                f"{file} holds more than tensors, perhaps code; nothing of it was run. "
                f"({first_line(error)}) Ask its author for a safetensors file."
            ) from error


def require_torch(purpose: str) -> Any:
    """Return the torch module, recent enough to be safe.

    Raises:
      CheckpointError: torch is missing or older than 2.6.
    """
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(
            f"{purpose} needs PyTorch, which is not installed: type "
            'pip install "jmamba[torch]", or use a checkpoint in safetensors.'
        ) from error
    version = tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2])
    if version < OLDEST_TORCH:
        raise CheckpointError(
            f"{purpose} needs torch 2.6 or newer, but {torch.__version__} is "
            "installed, in which weight files can run code (CVE-2025-32434): type "
            'pip install --upgrade "jmamba[torch]".'
        )
    return torch


def _to_numpy(file: Path, tensor: Any, part: tuple[slice, ...] = ()) -> np.ndarray:
    with reading(file, "is damaged"):
        tensor = tensor.detach()
        if str(tensor.dtype) != "torch.bfloat16":
            return tensor.numpy()[part]
        import torch

        # numpy has no bfloat16 of its own: carry the bits over
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)[part]
