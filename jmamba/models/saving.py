"""Saving a model: its configuration, its weights, its tokenizer."""

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jmamba.files.checksums import write_checksums
from jmamba.files.dtypes import main_dtype
from jmamba.files.errors import CheckpointError, compress
from jmamba.files.filling import ByteProgress
from jmamba.files.folders import GENERATION_CONFIG, new_folder, write_json
from jmamba.files.orbax_files import write_parameters
from jmamba.files.saving import SHARD_BYTES, write_tensors
from jmamba.files.tokenizer import copy_tokenizer
from jmamba.files.untrusted import as_path
from jmamba.files.upload import check_repository_name, upload
from jmamba.models.architecture import architecture_of
from jmamba.models.quantisation import is_quantised
from jmamba.models.skeleton import (
    make_skeleton,
    parameters_of,
    shapes_of,
    slots_of,
    variables_of,
)


def save_safetensors(
    model: Any,
    directory: str | os.PathLike,
    *,
    tokenizer: str | os.PathLike | None = None,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write config.json and safetensors; see `StackedModel.save_pretrained`."""
    check_tokenizer(model, tokenizer)
    check_parameters(model)
    with new_folder(directory, overwrite=overwrite) as folder:
        extra = _write_tokenizer(tokenizer, directory, folder)
        write_safetensors(model, folder, extra=extra, shard_bytes=shard_bytes)
        write_checksums(folder)


def push_safetensors(
    model: Any,
    repo_id: str,
    *,
    tokenizer: str | os.PathLike | None = None,
    shard_bytes: int = SHARD_BYTES,
    message: str | None = None,
    **options: Any,
) -> str:
    """Upload config.json and safetensors; see `StackedModel.push_to_hub`."""
    check_repository_name(repo_id)
    with TemporaryDirectory() as parent:
        folder = Path(parent) / "model"
        save_safetensors(model, folder, tokenizer=tokenizer, shard_bytes=shard_bytes)
        message = message or f"Upload {type(model).__name__}"
        return upload(folder, repo_id, message=message, **options)


def save_orbax(
    model: Any,
    directory: str | os.PathLike,
    *,
    tokenizer: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model's parameters with Orbax; sharded arrays are written as they lie.

    Args:
      model: what to write; weights keep their dtype.
      directory: the folder to make.
      tokenizer: folder or Hub id to copy the tokenizer's files from; "bytes" if tokens
        are the bytes of a text; None for that of a checkpoint that is replaced.
      overwrite: whether a checkpoint that is there already is replaced; other files of
        its folder stay.

    Raises:
      CheckpointError: the directory exists, the tokenizer's files are not found, or
        the model's parameters are not those that its configuration says.
      ValueError: a tokenizer is given for images.
    """
    check_tokenizer(model, tokenizer)
    check_parameters(model)
    with new_folder(directory, overwrite=overwrite) as folder:
        extra = _write_tokenizer(tokenizer, directory, folder)
        write_orbax(model, folder, extra=extra)
        write_checksums(folder)


def _write_tokenizer(
    tokenizer: str | os.PathLike | None, old: str | os.PathLike, new: Path
) -> dict[str, Any]:
    """Copy a tokenizer, without one that of the folder that is replaced."""
    if tokenizer is not None:
        return copy_tokenizer(tokenizer, new)
    old = as_path(old)
    if not (old / "config.json").is_file():
        return {}
    return copy_tokenizer(old, new, required=False)


def check_tokenizer(model: Any, tokenizer: str | os.PathLike | None) -> None:
    """Raise if a tokenizer is to be stored with a model that reads no tokens.

    Raises:
      ValueError: it is.
    """
    if tokenizer is not None and model.reads != "tokens":
        raise ValueError(
            f"tokenizer={str(tokenizer)!r}: a {type(model).__name__} reads "
            f"{model.reads} and has no tokenizer; leave it out."
        )


def check_parameters(model: Any) -> None:
    """Raise unless a model holds the parameters of its configuration, and no others.

    What else it holds, such as an adapter around a projection, would be missing from
    the files, and they would not load.

    Raises:
      CheckpointError: they are others; the message lists them.
    """
    if is_quantised(model):
        raise CheckpointError(
            "The model's weights are in 8 bits, which its files have no place for. "
            "Nothing was written. Save the model that was given to `quantise`, or load "
            'it without weights="int8".'
        )
    found = shapes_of(variables_of(model))
    skeleton = make_skeleton(model.config, dtype="float32", param_dtype="float32")
    needed = skeleton.shapes
    shapes = [
        f"{'.'.join(path)} is {found[path]}, needs {shape}"
        for path, shape in needed.items()
        if path in found and found[path] != shape
    ]
    lists = {
        "unknown": compress(".".join(path) for path in found if path not in needed),
        "missing": compress(".".join(path) for path in needed if path not in found),
        "of another shape": compress(shapes, separator="; "),
    }
    wrong = "; ".join(f"{name}: {paths}" for name, paths in lists.items() if paths)
    if wrong:
        kind = type(model).__name__
        raise CheckpointError(
            f"The parameters are not those of a {kind} of its configuration, so that "
            f"the files would not hold the model. Parameters {wrong}. Nothing was "
            "written. Merge what was added into the parameters it changes (of an "
            "nnx.LoRA: kernel + lora_a @ lora_b, and the layer itself back in its "
            "place), or set model.config to what the model is now."
        )


def write_safetensors(
    model: Any,
    folder: Path,
    *,
    extra: Mapping[str, Any],
    shard_bytes: int = SHARD_BYTES,
    progress: ByteProgress | None = None,
) -> None:
    """Write config.json and weights into a folder that is there.

    The parameters are the model's own: see `check_parameters`.

    Args:
      model: what to write.
      folder: where to.
      extra: further entries of config.json.
      shard_bytes: size above which weights are split.
      progress: called with the bytes written.
    """
    parameters = parameters_of(model)
    write_tensors(
        parameters,
        slots_of(model.config, parameters),
        folder,
        shard_bytes=shard_bytes,
        progress=progress,
    )
    write_config_file(model, folder, extra)


def write_orbax(model: Any, folder: Path, *, extra: Mapping[str, Any]) -> None:
    """Write config.json and Orbax's parameters into a folder that is there."""
    write_parameters(parameters_of(model), folder)
    write_config_file(model, folder, extra)


def write_config_file(model: Any, folder: Path, extra: Mapping[str, Any]) -> None:
    """Write config.json of a model, and its generation_config.json if it has one."""
    dtype = main_dtype(array.dtype.name for array in parameters_of(model).values())
    write_config = architecture_of(model.config).write_config
    assert write_config is not None
    content = write_config(model.config, dtype=dtype)
    write_json(folder / "config.json", content | dict(extra))
    generation = getattr(model.config, "generation_config", None)
    if generation is not None:
        write_json(folder / GENERATION_CONFIG, generation)
