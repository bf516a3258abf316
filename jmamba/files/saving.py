"""Writing parameters as safetensors, with the names and shapes PyTorch has for them."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from jmamba.files.filling import ByteProgress
from jmamba.files.folders import write_json
from jmamba.files.keys import ParameterPath, Slot

SHARD_BYTES = 2 * 1024**3
"""Size above which weights are split; the one shard being written is held in memory."""

Parameters = Mapping[ParameterPath, jax.Array]


def write_tensors(
    parameters: Parameters,
    table: Mapping[str, Slot],
    folder: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: ByteProgress | None = None,
) -> None:
    """Write the tensors of all slots into a folder that is there.

    Args:
      parameters: path -> array.
      table: key -> slot.
      folder: where to.
      shard_bytes: size above which weights are split.
      progress: called with the bytes written.
    """
    from safetensors.numpy import save_file

    total = sum(array.nbytes for array in parameters.values())
    shards = _plan_shards(parameters, table, shard_bytes)
    index, done = {}, 0
    for number, keys in enumerate(shards, 1):
        name = "model.safetensors"
        if len(shards) > 1:
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = dict(torch_tensors(parameters, table, keys))
        save_file(tensors, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(keys, name)
        done += sum(tensor.nbytes for tensor in tensors.values())
        if progress:
            progress("writing", done, total)
    if len(shards) > 1:
        content = {"metadata": {"total_size": total}, "weight_map": index}
        write_json(folder / "model.safetensors.index.json", content)


def _plan_shards(
    parameters: Parameters, table: Mapping[str, Slot], shard_bytes: int
) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for key, slot in table.items():
        nbytes = int(np.prod(slot.shape)) * parameters[slot.path].dtype.itemsize
        if shards[-1] and size + nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(key)
        size += nbytes
    return shards


def torch_tensors(
    parameters: Parameters, table: Mapping[str, Slot], keys: Iterable[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield tensors by their names, as PyTorch keeps them, one at a time.

    Args:
      parameters: path -> array.
      table: key -> slot.
      keys: which tensors, in their order.
    """
    for key in keys:
        path, index, change, _ = table[key]
        array = parameters[path]
        # one layer at a time: np.asarray of the stack would stay cached beside it
        host = np.asarray(array[index] if index else array)
        yield key, np.ascontiguousarray(change.to_torch(host))
