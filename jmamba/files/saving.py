"""Saving a model in the layout that transformers loads."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jmamba.files.dtypes import main_dtype
from jmamba.files.filling import Progress
from jmamba.files.folders import new_folder
from jmamba.files.keys import slots
from jmamba.files.parameters import parameters_of
from jmamba.files.tokenizer import copy_tokenizer
from jmamba.models.mamba.config import MambaConfig
from jmamba.models.mamba.layout import write_config
from jmamba.models.mamba.model import MambaLM
from jmamba.models.vim.config import VimConfig
from jmamba.models.vim.layout import write_vision_config
from jmamba.models.vim.model import Vim

SHARD_BYTES = 2 * 1024**3
"""Size above which weights are split; the one shard being written is held in memory."""


def save(
    model: MambaLM | Vim,
    directory: str | os.PathLike,
    *,
    tokenizer: str | os.PathLike | None = None,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model as transformers does: config.json and safetensors.

    A `Vim`, which transformers does not know, is written under Vim's own names.

    Args:
      model: what to write; weights keep their dtype.
      directory: the folder to make.
      tokenizer: folder or Hub id to copy the tokenizer's files from; "bytes" if tokens
        are the bytes of a text.
      overwrite: whether a checkpoint that is there already is replaced.
      shard_bytes: size above which weights are split into several files.

    Raises:
      CheckpointError: the directory exists, or the tokenizer's files are not found.
      ValueError: a tokenizer is given for images.

    Examples:
      >>> import tempfile, jmamba
      >>> from flax import nnx
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=8, num_layers=1)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save(jmamba.MambaLM(config, rngs=nnx.Rngs(0)), folder, tokenizer="bytes")
      ...     sorted(os.listdir(folder))
      ['config.json', 'model.safetensors']
    """
    check_tokenizer(model, tokenizer)
    with new_folder(directory, overwrite=overwrite) as folder:
        extra = copy_tokenizer(tokenizer, folder)
        write_model(model, folder, extra=extra, shard_bytes=shard_bytes)


def check_tokenizer(model: MambaLM | Vim, tokenizer: str | os.PathLike | None) -> None:
    """Raise if a tokenizer is to be stored with a model of images.

    Raises:
      ValueError: it is.
    """
    if tokenizer is not None and isinstance(model.config, VimConfig):
        raise ValueError(
            f"tokenizer={str(tokenizer)!r}: a Vision Mamba reads images and has no "
            "tokenizer; leave it out."
        )


def write_model(
    model: MambaLM | Vim,
    folder: Path,
    *,
    extra: Mapping[str, Any],
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> None:
    """Write config.json and weights into a folder that is there.

    Args:
      model: what to write.
      folder: where to.
      extra: further entries of config.json.
      shard_bytes: size above which weights are split.
      progress: called with the bytes written.
    """
    from safetensors.numpy import save_file

    parameters = parameters_of(model)
    total = sum(array.nbytes for array in parameters.values())
    shards = _plan_shards(model, shard_bytes)
    index, done = {}, 0
    for number, keys in enumerate(shards, 1):
        name = "model.safetensors"
        if len(shards) > 1:
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = dict(_torch_tensors(model, keys))
        save_file(tensors, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(keys, name)
        done += sum(tensor.nbytes for tensor in tensors.values())
        if progress:
            progress("writing", done, total)
    if len(shards) > 1:
        content = {"metadata": {"total_size": total}, "weight_map": index}
        write_json(folder / "model.safetensors.index.json", content)
    write_config_file(model, folder, extra)


def write_config_file(
    model: MambaLM | Vim, folder: Path, extra: Mapping[str, Any]
) -> None:
    """Write config.json of a model."""
    dtype = main_dtype(array.dtype.name for array in parameters_of(model).values())
    if isinstance(model.config, VimConfig):
        content = write_vision_config(model.config, dtype=dtype) | dict(extra)
    else:
        content = write_config(model.config, dtype=dtype, extra=dict(extra))
    write_json(folder / "config.json", content)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file as transformers formats it."""
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _slots(model: MambaLM | Vim):
    parameters = parameters_of(model)
    layout = layout_to_write(model.config)
    return slots(layout, {path: array.shape for path, array in parameters.items()})


def layout_to_write(config: MambaConfig | VimConfig) -> str:
    """Return the layout in which a model is saved."""
    if isinstance(config, VimConfig):
        return "vim"
    return "falcon" if config.is_falcon else "hf"


def _plan_shards(model: MambaLM | Vim, shard_bytes: int) -> list[list[str]]:
    parameters = parameters_of(model)
    shards: list[list[str]] = [[]]
    size = 0
    for key, slot in _slots(model).items():
        nbytes = int(np.prod(slot.shape)) * parameters[slot.path].dtype.itemsize
        if shards[-1] and size + nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(key)
        size += nbytes
    return shards


def _torch_tensors(
    model: MambaLM | Vim, keys: list[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the named tensors as PyTorch keeps them."""
    parameters, table = parameters_of(model), _slots(model)
    for key in keys:
        path, layer, change, _ = table[key]
        array = parameters[path]
        # one layer at a time: np.asarray of the stack would stay cached beside it
        host = np.asarray(array if layer is None else array[layer])
        yield key, np.ascontiguousarray(change.to_torch(host))
