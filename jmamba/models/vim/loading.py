"""Loading Vision Mamba: the files of its authors, and what `save` wrote."""

import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jmamba.files.dtypes import choose_dtypes, main_dtype
from jmamba.files.errors import CheckpointError
from jmamba.files.filling import Progress, fill
from jmamba.files.hub import Repository, local_folder, locate
from jmamba.files.keys import slots
from jmamba.files.orbax_files import is_orbax, read_orbax
from jmamba.files.parameters import make_skeleton
from jmamba.files.tensors import FLOATS
from jmamba.files.torch_files import read_training_checkpoint
from jmamba.files.validation import check_keys, explain_gates
from jmamba.files.weight_files import Weights, find_weights, read_headers
from jmamba.models.mamba.layout import read_json
from jmamba.models.vim.config import VimConfig
from jmamba.models.vim.layout import (
    MODEL_TYPE,
    infer_config,
    read_vision_config,
)
from jmamba.models.vim.model import Vim

RELEASED_FILES = (
    "vim_t_midclstok_76p1acc.pth",
    "vim_s_midclstok_80p5acc.pth",
    "vim_b_midclstok_81p9acc.pth",
    "vim_t_midclstok_ft_78p3acc.pth",
    "vim_s_midclstok_ft_81p6acc.pth",
)
"""Files of Vim's authors on the Hub, the one to prefer first."""

PARTS = ("model", "model_ema")
"""Where training checkpoints keep weights, and their moving average."""


def load_vim(
    path_or_id: str | os.PathLike,
    *,
    dtype=None,
    param_dtype=None,
    revision: str | None = None,
    remat: bool = False,
    part: str = "model",
    filename: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Vim:
    """Load a Vision Mamba.

    Reads the training checkpoints of Vim's authors (.pth, needs torch), plain state
    dicts with the same names, and what `save` and `save_orbax` wrote.

    Args:
      path_or_id: a file, a folder that holds one, or a Hub id such as
        "hustvl/Vim-tiny-midclstok".
      dtype: compute and storage dtype; None for float32, "auto" for the checkpoint's.
      param_dtype: storage dtype, if it is to differ.
      revision: branch, tag or commit on the Hub.
      remat: whether the backward pass recomputes each block.
      part: "model", or "model_ema" for the moving average of the weights.
      filename: which file of a Hub repository; None for the released one.
      changes: fields of `VimConfig` that the checkpoint does not tell, such as
        `{"class_token": "first"}`.

    Raises:
      CheckpointError: the checkpoint cannot be found, read or understood, or is of
        another architecture; the message says what to do.
      ValueError: a dtype is not a floating one, or the part is unknown.
    """
    check_part(part)
    place = locate_vim(path_or_id, revision=revision, filename=filename)
    return read_vim(
        place,
        dtype=dtype,
        param_dtype=param_dtype,
        remat=remat,
        part=part,
        changes=changes,
    )


def check_part(part: str) -> None:
    """Raise a ValueError unless training checkpoints have such a part."""
    if part not in PARTS:
        raise ValueError(f"part must be {' or '.join(PARTS)}, but is {part!r}.")


def read_vim(
    place: Path,
    *,
    dtype=None,
    param_dtype=None,
    remat: bool = False,
    part: str = PARTS[0],
    changes: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Vim:
    """Load a model from a local file or folder, telling `progress` the bytes read."""
    if is_orbax(place):
        file = place / "config.json"
        raw = read_json(file) | dict(changes or {})
        _check_plain(place, part)
        options = {"dtype": dtype, "param_dtype": param_dtype, "remat": remat}
        return read_orbax(place, read_vision_config(raw, str(file)), **options)
    weights, args = _find(place, part)
    found = read_headers(weights)
    shapes = {key: tensor.shape for key, tensor in found.items()}
    config = _config(place, shapes, args, changes)
    main = main_dtype(FLOATS[tensor.dtype].name for tensor in found.values())
    compute, param = choose_dtypes(dtype, param_dtype, main)
    skeleton = make_skeleton(config, dtype=compute, param_dtype=param, remat=remat)
    table = slots("vim", skeleton.shapes)
    check_keys(
        {key: slot.shape for key, slot in table.items()},
        shapes,
        str(place),
        says=f"a Vision Mamba of {config.num_layers} layers and width {config.d_model}",
        explain=lambda found: (
            explain_gates(found, config.definite)
            or _explain_sorting(found, config)
            or "Only bidirectional models of version 2 are read."
        ),
    )
    return skeleton.build(fill(skeleton, table, weights, progress))


def _explain_sorting(found: Mapping[str, Any], config: VimConfig) -> str | None:
    there = any(key.startswith("sorting.") for key in found)
    wanted = config.reorder != "none" and config.reorder_by == "importance"
    if there == wanted:
        return None
    if there:
        return "The weights are of a model that sorts its tokens: give its reorder=..."
    return (
        "These weights were trained without importance, which is learned with all the "
        "rest: train Vim(config, rngs=...), or load with reorder_by='random'."
    )


def is_vision(place: Path) -> bool:
    """Say whether a file or folder is a Vision Mamba's; language models are folders."""
    config = place / "config.json"
    if place.is_file() or not config.is_file():
        return place.is_file() or any(place.glob("*.pth"))
    return read_json(config).get("model_type") == MODEL_TYPE


def locate_vim(
    path_or_id: str | os.PathLike,
    *,
    revision: str | None = None,
    filename: str | None = None,
) -> Path:
    """Return the file or folder of a checkpoint, downloading it if need be.

    Raises:
      CheckpointError: there is none.
    """
    path = Path(path_or_id).expanduser()
    if path.is_file():
        return path
    local = local_folder(path_or_id, revision=revision)
    if local is not None:
        return local if filename is None else local / filename
    repository = Repository(str(path_or_id), revision)
    if filename is not None:
        return repository.fetch(filename)
    if repository.fetch_optional("config.json") is not None:
        return locate(path_or_id, revision=revision)
    for name in RELEASED_FILES:
        file = repository.fetch_optional(name)
        if file is not None:
            return file
    raise CheckpointError(
        f"{path_or_id} on the Hub holds neither config.json nor a file that Vim's "
        f"authors released ({', '.join(RELEASED_FILES)}); give filename=..."
    )


def _find(place: Path, part: str) -> tuple[Weights, Namespace | None]:
    """Return the weights, and the training arguments beside them."""
    if place.is_dir():
        weights = find_weights(place)
    elif place.suffix in (".pth", ".pt", ".bin", ".safetensors"):
        weights = Weights((place,))
    else:
        raise CheckpointError(
            f"{place} is no weight file; give one that ends in .pth, .pt, .bin or "
            ".safetensors, or a folder that holds it."
        )
    file = weights.files[0]
    if not file.is_file():
        raise CheckpointError(f"There is no file {file}; check the name.")
    content = {} if file.suffix == ".safetensors" else read_training_checkpoint(file)
    if not any(isinstance(content.get(name), dict) for name in PARTS):
        _check_plain(file, part)
        return weights, None
    args = content.get("args")
    return weights._replace(part=part), args if isinstance(args, Namespace) else None


def _check_plain(place: Path, part: str) -> None:
    if part != PARTS[0]:
        raise CheckpointError(f"{place} holds plain weights and no {part!r}.")


def _config(
    place: Path,
    shapes: Mapping[str, tuple[int, ...]],
    args: Namespace | None,
    changes: Mapping[str, Any] | None,
) -> VimConfig:
    file = place / "config.json"
    if file.is_file():
        return read_vision_config(read_json(file) | dict(changes or {}), str(file))
    return infer_config(shapes, args, str(place), changes)
