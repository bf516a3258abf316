"""Filling a model's parameters from weight files, one tensor at a time."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import jax
import numpy as np

from jmamba.files.errors import CheckpointError, compress
from jmamba.files.keys import Change, ParameterPath, Part, Slot
from jmamba.files.tensors import FLOATS, StoredTensor
from jmamba.files.weight_files import Weights

ByteProgress = Callable[[str, int, int], None]
"""Called as progress(what, done, total) with bytes, to draw a bar."""

_CHUNK = 1 << 22  # values checked or compared at once, so that no large mask is made


def fill(
    parameters: Mapping[ParameterPath, jax.ShapeDtypeStruct],
    slots: Mapping[str, Slot],
    weights: Weights,
    progress: ByteProgress | None = None,
) -> dict[ParameterPath, jax.Array]:
    """Return the parameters, filled with the weights of all slots.

    Each tensor is converted on its way into its layer of the stacked parameter, and a
    parameter moves to the device when its last layer is there: beside the model itself
    only one tensor is ever held.

    Raises:
      CheckpointError: values are not finite, or a head that should be the embedding
        is not.
    """
    arrays: dict[ParameterPath, jax.Array] = {}
    host: dict[ParameterPath, np.ndarray] = {}
    left = Counter(slot.path for slot in slots.values())
    bad: list[str] = []
    done, total = 0, weights.num_bytes
    for file in weights.files:
        with weights.open(file) as tensors:
            for key, tensor in tensors.items():
                if key not in slots:
                    continue
                path, index, change, _ = slots[key]
                leaf = parameters[path]
                target = host.setdefault(path, aligned_empty(leaf.shape, leaf.dtype))
                bad += convert_into(target[index], key, tensor, change)
                left[path] -= 1
                if not left[path]:
                    arrays[path] = jax.device_put(host.pop(path), may_alias=True)
                if progress:
                    done += int(np.prod(tensor.shape)) * FLOATS[tensor.dtype].itemsize
                    progress("reading", min(done, total), total)
    if progress:
        progress("reading", total, total)  # the files' headers count too
    _check_finite(bad, weights)
    return arrays


def fill_parts(
    parameters: Mapping[ParameterPath, jax.ShapeDtypeStruct],
    slots: Mapping[str, Slot],
    weights: Weights,
    places: Mapping[ParameterPath, jax.sharding.Sharding],
) -> Mapping[ParameterPath, jax.Array]:
    """Return the parameters, of which each device has read its own part.

    Of safetensors, and of PyTorch's files that can be mapped, nothing else is read: no
    host holds more of a parameter than its devices do.

    Args:
      parameters: shapes and dtypes.
      slots: name -> where a tensor goes.
      weights: the files.
      places: where each parameter is to lie.

    Raises:
      CheckpointError: values are not finite.
    """
    bad: set[str] = set()
    with ExitStack() as stack:
        found: dict[ParameterPath, list[tuple[str, StoredTensor]]] = {}
        for file in weights.files:
            for key, tensor in stack.enter_context(weights.open(file)).items():
                if key in slots:
                    found.setdefault(slots[key].path, []).append((key, tensor))

        def read_part(path: ParameterPath, index: tuple[slice, ...]) -> np.ndarray:
            leaf = parameters[path]
            bounds = [i.indices(n)[:2] for i, n in zip(index, leaf.shape, strict=True)]
            shape = tuple(stop - start for start, stop in bounds)
            target = aligned_empty(shape, leaf.dtype)
            for key, tensor in found[path]:
                _, own, change, _ = slots[key]
                part = _overlap(own, bounds)
                if part is not None:
                    place, within = target[part[0]], part[1]
                    bad.update(convert_into(place, key, tensor, change, within))
            return target

        arrays = {
            path: jax.make_array_from_callback(
                leaf.shape, places[path], _once(partial(read_part, path))
            )
            for path, leaf in parameters.items()
        }
    _check_finite(sorted(bad), weights)
    return arrays


def _overlap(
    own: Part, bounds: Sequence[tuple[int, int]]
) -> tuple[Part, tuple[slice, ...]] | None:
    """Return where in a part of a parameter a tensor goes, and which part of it.

    Args:
      own: which part of the parameter the tensor is.
      bounds: first and last of each axis of the part that is filled.

    Returns:
      None if the tensor is not in it.

    Examples:
      >>> _overlap((1, slice(2, 6)), [(0, 2), (4, 8), (0, 3)])
      ((1, slice(0, 2, None)), (slice(2, 4, None), slice(0, 3, None)))
      >>> _overlap((1, slice(2, 6)), [(0, 2), (6, 8), (0, 3)]) is None
      True
    """
    place: list[int | slice] = []
    within: list[slice] = []
    for i, (start, stop) in zip(own, bounds, strict=False):
        if isinstance(i, int):
            if not start <= i < stop:
                return None
            place.append(i - start)
            continue
        first, last = max(start, i.start), min(stop, i.stop)
        if first >= last:
            return None
        place.append(slice(first - start, last - start))
        within.append(slice(first - i.start, last - i.start))
    return tuple(place), (*within, *(slice(*bound) for bound in bounds[len(own) :]))


def _once(read: Callable[[Any], np.ndarray]) -> Callable[[Any], np.ndarray]:
    """Return a reader that devices with the same part share."""
    seen: dict[str, np.ndarray] = {}

    def read_once(index):
        name = str(index)
        if name not in seen:
            seen[name] = read(index)
        return seen[name]

    return read_once


def _check_finite(bad: Collection[str], weights: Weights) -> None:
    if bad:
        raise CheckpointError(
            f"The weights in {weights.files[0].parent} are not finite: {compress(bad)}."
            " The checkpoint is damaged, or its values need a wider dtype (float32)."
        )


def convert_into(
    target: np.ndarray,
    key: str,
    tensor: StoredTensor,
    change: Change,
    within: tuple[slice, ...] = (),
) -> list:
    """Write a tensor, or a part of it, into its place; return what is wrong with it.

    Rows are converted some at a time, so that the whole never exists twice.
    """
    source = tensor.read(change.torch_part(within)) if within else tensor.read()
    value = change.from_torch(source)
    rows = max(1, _CHUNK // max(1, value[:1].size))
    finite = True
    for start in range(0, len(value), rows):
        part = target[start : start + rows]
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(part, value[start : start + rows], casting="unsafe")
        finite = finite and bool(np.isfinite(part).all())
    if finite:
        return []
    if np.isfinite(source).all():
        return [f"{key} (too large for {target.dtype})"]
    return [f"{key} (NaN or infinite)"]


def check_copy(weights: Weights, copy_key: str, key: str) -> None:
    """Raise unless a tensor that is stored a second time equals the first.

    Raises:
      CheckpointError: they differ.
    """
    copy, table = _read_one(weights, copy_key), _read_one(weights, key)
    rows = max(1, _CHUNK // table.shape[1])
    for start in range(0, len(table), rows):
        part = slice(start, start + rows)
        if not np.array_equal(copy[part], table[part]):
            raise CheckpointError(
                f"config.json in {weights.files[0].parent} ties the head to the "
                f"embedding, but {copy_key} differs from {key}. If the head "
                'is the right one, write "tie_word_embeddings": false into config.json '
                '("tie_embeddings" in an original state-spaces one).'
            )


def _read_one(weights: Weights, key: str) -> np.ndarray:
    for file in weights.files:
        with weights.open(file) as tensors:
            if key in tensors:
                return tensors[key].read()
    raise AssertionError(f"{key} was there a moment ago")


def aligned_empty(shape: tuple[int, ...], dtype) -> np.ndarray:
    """Return an uninitialised array at an address that jax on a CPU takes over.

    jax copies arrays that do not start at a multiple of 64 bytes; numpy's start 16
    bytes off, and the copy would double the memory of the largest parameter.
    """
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)
