"""Weight files: which there are, and reading them tensor by tensor."""

import os
import reprlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from jmamba.files.errors import CheckpointError, compress
from jmamba.files.json_files import read_json
from jmamba.files.tensors import StoredTensor
from jmamba.files.torch_files import find_part, open_torch
from jmamba.files.untrusted import check_regular, reading

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
PREFERENCE = (SINGLE_FILES[0], INDEX_FILES[0], SINGLE_FILES[1], INDEX_FILES[1])
"""Names of weight files, the first there is being read: safetensors runs no code."""

Edit = Callable[[StoredTensor], StoredTensor]
"""What becomes of a tensor between its file and the model."""

Opener = Callable[[Path], AbstractContextManager[dict[str, StoredTensor]]]
"""Opens a weight file."""


class Weights(NamedTuple):
    """The weight files of a checkpoint, and what an index says is in which.

    Attributes:
      files: the files.
      weight_map: what an index says, name -> file; None without an index.
      part: where in the files they are; None for files that hold nothing else.
      is_wrapped: whether the part was found, and not asked for.
      names: stored name -> the one to go by; None if they are the same. Tensors that
        it does not name are left out.
      edits: name -> what becomes of its tensor on the way.
      opener: what opens a file; None to go by its ending.
    """

    files: tuple[Path, ...]
    weight_map: dict[str, str] | None = None
    part: str | None = None
    is_wrapped: bool = False
    names: Mapping[str, str] | None = None
    edits: Mapping[str, Edit] = MappingProxyType({})
    opener: Opener | None = None

    @contextmanager
    def open(self, file: Path) -> Iterator[dict[str, StoredTensor]]:
        """Open one of the files."""
        with self._open(file) as tensors:
            if self.names is not None:
                tensors = {
                    self.names[key]: tensor
                    for key, tensor in tensors.items()
                    if key in self.names
                }
            yield {
                key: self.edits[key](tensor) if key in self.edits else tensor
                for key, tensor in tensors.items()
            }

    def _open(self, file: Path) -> AbstractContextManager[dict[str, StoredTensor]]:
        if self.opener is not None:
            return self.opener(file)
        return open_torch(file, self.part) if self.part else open_weights(file)

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(file.stat().st_size for file in self.files)


def find_weights(folder: Path) -> Weights:
    """Return the weight files of a folder, safetensors before pickles.

    Raises:
      CheckpointError: there are none, or an index names files that are not there.
    """
    return unwrap(_find_files(folder))


def unwrap(weights: Weights) -> Weights:
    """Return weights that say under which key the files hold them.

    Raises:
      CheckpointError: a file cannot be read.
    """
    if _OPENERS[weights.files[0].suffix] is not open_torch:
        return weights
    part = find_part(weights.files[0])
    return weights._replace(part=part, is_wrapped=part is not None)


def _find_files(folder: Path) -> Weights:
    for name in PREFERENCE:
        if (folder / name).is_file():
            return _find_shards(folder, name) if name in INDEX_FILES else Weights(
                (folder / name,)
            )  # fmt: skip
    for suffix in _OPENERS:
        found = sorted(filter(os.path.isfile, folder.glob("*" + suffix)))
        if len(found) == 1:
            return Weights((found[0],))
    raise CheckpointError(
        f"{folder} holds no weights: none of {', '.join(PREFERENCE)}, nor exactly one "
        "other file ending in " + ", ".join(_OPENERS) + "."
    )


def _find_shards(folder: Path, name: str) -> Weights:
    shards = shard_names(folder / name)
    missing = [shard for shard in shards if not os.path.isfile(folder / shard)]
    if missing:
        raise CheckpointError(
            f"{folder / name} names files that are not there: {compress(missing)}. "
            "Copy or download the missing shards into the same folder."
        )
    index = read_json(folder / name)["weight_map"]
    return Weights(tuple(folder / shard for shard in shards), index)


def shard_names(index: Path) -> list[str]:
    """Return the files an index names, each once.

    Raises:
      CheckpointError: the index has no weight_map, or names what is no weight file of
        its kind, or a file in another folder.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f'{index} has no "weight_map" from tensors to files; restore the file.'
        )
    suffix = Path(index.name.removesuffix(".index.json")).suffix
    odd = [name for name in weight_map.values() if not isinstance(name, str)]
    odd = odd or [name for name in weight_map.values() if not name.endswith(suffix)]
    if odd:
        raise CheckpointError(
            f"{index} names no files that end in {suffix}: "
            f"{compress(map(reprlib.repr, odd))}; restore the file."
        )
    names = sorted(set(weight_map.values()))
    outside = [name for name in names if Path(name).name != name or name in (".", "..")]
    if outside:
        raise CheckpointError(
            f"{index} names files outside of its folder: {compress(outside)}; a shard "
            "is a plain file name beside the index."
        )
    return names


@contextmanager
def open_safetensors(file: Path) -> Iterator[dict[str, StoredTensor]]:
    """Open a safetensors file; nothing but its header is read until asked for."""
    from safetensors import safe_open

    check_regular(file)

    def read(key: str, part: tuple[slice, ...] = ()) -> np.ndarray:
        with reading(file, _NO_SAFETENSORS):
            return tensors.get_slice(key)[part] if part else tensors.get_tensor(key)

    with reading(file, _NO_SAFETENSORS):
        opened = safe_open(file, framework="np")
    with opened as tensors:
        found = {}
        with reading(file, _NO_SAFETENSORS):
            for key in tensors.keys():
                part = tensors.get_slice(key)
                shape = tuple(part.get_shape())
                found[key] = StoredTensor(shape, part.get_dtype(), partial(read, key))
        yield found


_NO_SAFETENSORS = "is cut short or no safetensors file"


_OPENERS: dict[str, Opener] = {
    ".safetensors": open_safetensors,
    ".bin": open_torch,
    ".pth": open_torch,
    ".pt": open_torch,
}


def open_weights(file: Path) -> AbstractContextManager[dict[str, StoredTensor]]:
    """Open a weight file of any known kind."""
    return _OPENERS[file.suffix](file)


def read_headers(weights: Weights) -> dict[str, StoredTensor]:
    """Return shape and dtype of all tensors of all files; they can not be read.

    Raises:
      CheckpointError: a tensor is in two files, or is not in the file that the index
        says.
    """
    found: dict[str, StoredTensor] = {}
    places: dict[str, str] = {}
    for file in weights.files:
        with weights.open(file) as tensors:
            twice = [key for key in tensors if key in found]
            if twice:
                raise CheckpointError(
                    f"{file} repeats tensors of another file: {compress(twice)}."
                )
            for key, tensor in tensors.items():
                found[key] = tensor._replace(read=_closed)
                places[key] = file.name
    wrong = [
        k for k, file in (weights.weight_map or {}).items() if places.get(k) != file
    ]
    if wrong:
        raise CheckpointError(
            f"The index in {weights.files[0].parent} says where tensors are, but these "
            f"are not there: {compress(wrong)}. Download the checkpoint again."
        )
    return found


def _closed(part: tuple[slice, ...] = ()) -> np.ndarray:
    raise AssertionError("the file of this tensor is closed")
