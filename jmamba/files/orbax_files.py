"""Orbax checkpoints of the parameters, beside the same config.json."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jmamba.files.dtypes import choose_dtypes, main_dtype
from jmamba.files.errors import CheckpointError, compress
from jmamba.files.folders import new_folder
from jmamba.files.parameters import flatten, make_skeleton, nest, parameters_of
from jmamba.files.saving import check_tokenizer, write_config_file
from jmamba.files.tokenizer import copy_tokenizer
from jmamba.files.validation import check_keys, describe, explain_gates
from jmamba.models.mamba.config import MambaConfig
from jmamba.models.mamba.layout import read_config, read_json
from jmamba.models.mamba.model import MambaLM
from jmamba.models.vim.config import VimConfig
from jmamba.models.vim.layout import MODEL_TYPE, read_vision_config
from jmamba.models.vim.model import Vim

PARAMETERS = "parameters"
"""Name of Orbax's own folder inside a checkpoint."""


def save_orbax(
    model: MambaLM | Vim,
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
        are the bytes of a text.
      overwrite: whether a checkpoint that is there already is replaced.

    Raises:
      CheckpointError: the directory exists, or the tokenizer's files are not found.
      ValueError: a tokenizer is given for images.
    """
    check_tokenizer(model, tokenizer)
    with new_folder(directory, overwrite=overwrite) as folder:
        write_orbax(model, folder, extra=copy_tokenizer(tokenizer, folder))


def write_orbax(
    model: MambaLM | Vim, folder: Path, *, extra: Mapping[str, Any]
) -> None:
    """Write config.json and parameters into a folder that is there."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute() / PARAMETERS, nest(parameters_of(model)))
        checkpointer.wait_until_finished()
    write_config_file(model, folder, extra)


def is_orbax(folder: Path) -> bool:
    """Say whether a folder is a checkpoint that `save_orbax` wrote."""
    return (folder / PARAMETERS).is_dir()


def load_orbax(
    directory: str | os.PathLike,
    *,
    dtype=None,
    param_dtype=None,
    remat: bool = False,
    sharding: Callable[..., jax.sharding.Sharding] | None = None,
) -> Any:
    """Load a model that `save_orbax` wrote.

    Args:
      directory: the folder.
      dtype: compute and storage dtype; None for float32, "auto" for the stored one.
      param_dtype: storage dtype, if it is to differ.
      remat: whether the backward pass recomputes each block.
      sharding: called as sharding(path, shape) -> jax.sharding.Sharding, so that every
        host and device reads only its part; None for the default device.

    Returns:
      A `MambaLM` or a `Vim`, as the folder's config.json says.

    Raises:
      CheckpointError: the folder is no such checkpoint, is damaged, or its parameters
        do not fit its config.json or are not finite.
    """
    folder = Path(directory).expanduser().absolute()
    options = {"dtype": dtype, "param_dtype": param_dtype, "remat": remat}
    return read_orbax(folder, _config(folder), sharding=sharding, **options)


def _config(folder: Path) -> MambaConfig | VimConfig:
    file = folder / "config.json"
    raw = read_json(file)
    if raw.get("model_type") == MODEL_TYPE:
        return read_vision_config(raw, str(file))
    return read_config(folder).config


def read_orbax(
    folder: Path,
    config: MambaConfig | VimConfig,
    *,
    dtype=None,
    param_dtype=None,
    remat: bool = False,
    sharding: Callable[..., jax.sharding.Sharding] | None = None,
) -> Any:
    """Load the parameters in a folder into a model; see `load_orbax`."""
    import orbax.checkpoint as ocp

    folder = folder.absolute()
    with ocp.StandardCheckpointer() as checkpointer:
        stored = _metadata(checkpointer, folder / PARAMETERS)
        main = main_dtype(np.dtype(leaf.dtype).name for leaf in stored.values())
        compute, param = choose_dtypes(dtype, param_dtype, main)
        skeleton = make_skeleton(config, dtype=compute, param_dtype=param, remat=remat)
        check_keys(
            {".".join(path): shape for path, shape in skeleton.shapes.items()},
            {".".join(path): tuple(leaf.shape) for path, leaf in stored.items()},
            str(folder),
            explain=lambda found: (
                explain_gates(found, config.definite) or describe(found)
            ),
        )
        default = jax.sharding.SingleDeviceSharding(jnp.zeros(()).device)  # type: ignore[arg-type]
        abstract = {
            path: jax.ShapeDtypeStruct(
                leaf.shape,
                leaf.dtype,
                sharding=sharding(path, leaf.shape) if sharding else default,
            )
            for path, leaf in skeleton.parameters.items()
        }
        try:
            tree = checkpointer.restore(folder / PARAMETERS, nest(abstract))
        except (ValueError, OSError, KeyError) as error:
            raise _damaged(folder, error) from error
    arrays = flatten(tree)
    finite = _are_finite(list(arrays.values()))
    bad = [
        ".".join(path) for path, good in zip(arrays, finite, strict=True) if not good
    ]
    if bad:
        raise CheckpointError(
            f"The weights in {folder} are not finite: {compress(bad)}."
        )
    return skeleton.build(arrays)


@jax.jit  # one program for all, and sharded arrays stay where they are
def _are_finite(arrays: list[jax.Array]) -> list[jax.Array]:
    return [jnp.isfinite(array).all() for array in arrays]


def _metadata(checkpointer, folder: Path) -> dict:
    try:
        return flatten(checkpointer.metadata(folder).item_metadata.tree)
    except (ValueError, OSError, KeyError, AttributeError) as error:
        raise _damaged(folder.parent, error) from error


def _damaged(folder: Path, error: Exception) -> CheckpointError:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return CheckpointError(
        f"{folder / PARAMETERS} is no complete Orbax checkpoint ({line}); convert or "
        "copy it again."
    )
