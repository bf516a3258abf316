"""PyTorch's own files (.bin, .pth), read without running what they may contain."""

import argparse
import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jmamba.files.errors import CheckpointError
from jmamba.files.tensors import StoredTensor

PARTS = ("model", "model_ema")
"""Where training checkpoints keep weights, and their moving average."""

HOLDERS = ("state_dict", "model_state_dict", "model", "module")
"""What trainers call the entry of a file that holds the weights."""

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
    for name in part.split("/") if part is not None else ():
        if not isinstance(state, dict) or not isinstance(state.get(name), dict):
            has = ", ".join(map(str, state)) if isinstance(state, dict) else "no names"
            raise CheckpointError(f"{file} holds no {name!r}; it holds {has}.")
        state = state[name]
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{file} holds no tensors by name (a state dict).")
    state = {key: value for key, value in state.items() if not _is_plain(value)}
    odd = [str(key) for key, value in state.items() if not _is_tensor(value)]
    if odd:
        raise CheckpointError(
            f"{file} is not a plain state dict, it also holds {', '.join(odd[:8])}. "
            "Save the model's own with torch.save(model.state_dict(), path)."
        )
    found = {}
    for key, tensor in state.items():
        name = str(tensor.dtype).removeprefix("torch.")
        found[key] = StoredTensor(
            tuple(tensor.shape),
            _NAMES.get(name, name),
            lambda tensor=tensor: _to_numpy(tensor),
        )
    yield found


def find_part(file: Path) -> str | None:
    """Return under which key a file holds its state dict; None if it is one itself.

    Trainers save it beside what else they need: `{"state_dict": ..., "epoch": 3}`.

    Raises:
      CheckpointError: as `open_torch`.
    """
    state, path = _load(file), []
    while isinstance(state, dict) and not any(map(_is_tensor, state.values())):
        held = [name for name in HOLDERS if isinstance(state.get(name), dict)]
        if not held:
            break
        path.append(held[0])
        state = state[held[0]]
    return "/".join(path) or None


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "numpy")


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
    # mmap needs the zip format; files older than torch 1.6 are read whole
    options = {"weights_only": True, "map_location": "cpu", "mmap": True}
    if not zipfile.is_zipfile(file):
        options["mmap"] = False
    try:
        return torch.load(file, **options)
    except pickle.UnpicklingError as error:
        if "Unsupported global" not in str(error) and "weights_only" not in str(error):
            raise _broken(file, error) from error
        raise CheckpointError(
            f"{file} holds more than tensors, perhaps code; nothing of it was run. "
            f"({_first_line(error)}) Ask its author for a safetensors file."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise _broken(file, error) from error


def _broken(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{file} is cut short or no PyTorch file ({_first_line(error)}); copy or "
        "download it again."
    )


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


def _to_numpy(tensor) -> np.ndarray:
    tensor = tensor.detach()
    if str(tensor.dtype) != "torch.bfloat16":
        return tensor.numpy()
    import torch

    # numpy has no bfloat16 of its own: carry the bits over
    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
