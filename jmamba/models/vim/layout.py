"""Configurations of Vision Mamba: written ones, and those read off the tensors."""

import math
import reprlib
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from jmamba.files.errors import CheckpointError
from jmamba.files.untrusted import reading
from jmamba.layers.fields import check_field
from jmamba.models.architecture import write_fields
from jmamba.models.classes import read_class_names
from jmamba.models.vim.config import DIVIDE_FLAGS, VimConfig

_HARMLESS = ("model_type", "architectures", "dtype", "torch_dtype", "label2id")
_PLACES = {"midclstok": "middle", "noclstok": "none"}
"""What the names of Vim's models say about the class token."""

MODEL_TYPE = "vim"
"""What `config.json` of a Vision Mamba calls it."""

RELEASED_IMAGE_SIZE = 224


def write_vision_config(config: VimConfig, *, dtype: str) -> dict[str, Any]:
    """Return the `config.json` of a model: the fields of `VimConfig` by name.

    Names of classes are written as transformers does, as `id2label`.
    """
    raw = write_fields(config, name=MODEL_TYPE, kind="Vim", dtype=dtype)
    names = raw.pop("class_names")
    if names:
        raw["id2label"] = {str(i): name for i, name in enumerate(names)}
    return raw


def read_vision_config(raw: Mapping[str, Any]) -> VimConfig:
    """Return the configuration that a `config.json` holds.

    Raises:
      ValueError: a field is unknown or impossible.

    Examples:
      >>> raw = {"model_type": "vim", "d_model": 8, "num_classes": 2}
      >>> labels = {"id2label": {"1": "dog", "0": "cat"}}
      >>> read_vision_config(raw | labels).class_names
      ('cat', 'dog')
    """
    fields = {name: value for name, value in raw.items() if name not in _HARMLESS}
    if "id2label" in fields:
        fields["class_names"] = read_class_names(fields.pop("id2label"))
    return VimConfig.from_dict(fields)


def infer_config(
    shapes: Mapping[str, tuple[int, ...]],
    args: Namespace | None,
    where: str,
    changes: Mapping[str, Any] | None = None,
) -> VimConfig:
    """Return the configuration of Vim's own checkpoints, which hold none.

    Sizes are read off the tensors. The image size is that of the training arguments;
    without them 224 if a whole stride fits, else patches side by side. The class
    token's place is in the name of the model, `midclstok`; without a name it is the
    middle, as in all released models. `divide_out` holds unless the arguments say
    otherwise, in either spelling.

    Args:
      shapes: name -> shape of the tensors.
      args: the training arguments, or None.
      where: what to call the checkpoint.
      changes: fields that are known better.

    Raises:
      CheckpointError: the tensors are not those of a Vim, or contradict each other.

    Examples:
      >>> shapes = {
      ...     "pos_embed": (1, 730, 192),
      ...     "patch_embed.proj.weight": (192, 3, 16, 16),
      ...     "cls_token": (1, 1, 192),
      ...     "head.weight": (1000, 192),
      ...     "layers.0.mixer.A_log": (384, 16),
      ...     "layers.0.mixer.dt_proj.weight": (384, 12),
      ...     "layers.0.mixer.conv1d.weight": (384, 1, 4),
      ... }
      >>> config = infer_config(shapes, None, "a file")
      >>> config.stride, config.class_position()
      (8, 364)
    """
    with reading(
        where, "is no checkpoint of a Vision Mamba", "give its config.json too"
    ):
        return _infer(shapes, args, where, dict(changes or {}))


def _infer(
    shapes: Mapping[str, tuple[int, ...]],
    args: Namespace | None,
    where: str,
    known: dict[str, Any],
) -> VimConfig:
    ranks = {
        "pos_embed": 3,
        "patch_embed.proj.weight": 4,
        "head.weight": 2,
        "layers.0.mixer.A_log": 2,
        "layers.0.mixer.dt_proj.weight": 2,
        "layers.0.mixer.conv1d.weight": 3,
    }
    missing = [key for key, rank in ranks.items() if len(shapes.get(key, ())) != rank]
    if missing:
        raise CheckpointError(
            f"{where} is no checkpoint of a Vision Mamba: it holds no tensors "
            f"{', '.join(missing)} of the rank they need. A language model is a folder "
            "with its config.json."
        )
    d_model, colours, patch, _ = shapes["patch_embed.proj.weight"]
    has_class = "cls_token" in shapes
    options = vars(args) if args is not None else {}
    d_inner, d_state = shapes["layers.0.mixer.A_log"]
    fields = {
        "d_model": d_model,
        "image_channels": colours,
        "patch_size": patch,
        "num_layers": _count_layers(shapes),
        "num_classes": shapes["head.weight"][0],
        "class_token": known["class_token"]
        if "class_token" in known
        else _class_token(options.get("model"), where, has_class=has_class),
        "d_inner": d_inner,
        "d_state": d_state,
        "d_conv": shapes["layers.0.mixer.conv1d.weight"][2],
        "dt_rank": shapes["layers.0.mixer.dt_proj.weight"][1],
        "use_bias": "layers.0.mixer.in_proj.bias" in shapes,
        "use_conv_bias": "layers.0.mixer.conv1d.bias" in shapes,
    }
    if not set(DIVIDE_FLAGS) & set(known):
        fields |= {name: options[name] for name in DIVIDE_FLAGS if name in options}
    side = _side(shapes["pos_embed"][1] - has_class, where)
    size = known.get("image_size", options.get("input_size"))
    fields |= _grid(side, patch, size, where)
    try:
        return VimConfig.from_dict({**fields, **known})
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{where}: {error}") from error


def _count_layers(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return len({key.split(".")[1] for key in shapes if key.startswith("layers.")})


def _class_token(name: object, where: str, *, has_class: bool) -> str:
    if not has_class:
        return "none"
    if name is None:
        return "middle"
    if not isinstance(name, str):
        raise CheckpointError(
            f"{where} says that its model is called {reprlib.repr(name)}, which is no "
            "text."
        )
    for part, place in _PLACES.items():
        if part in name and place != "none":
            return place
    raise CheckpointError(
        f"{where} is of a model called {name!r}, which does not say where its class "
        'token stands: in Python give changes={"class_token": "middle"}, "first", '
        '"last" or a number, to Vim.from_pretrained.'
    )


def _side(patches: int, where: str) -> int:
    side = math.isqrt(patches)
    if side * side != patches or side == 0:
        raise CheckpointError(
            f"{where} has places for {patches} patches, which make no square; models "
            "with another grid or with two class tokens are not read."
        )
    return side


def _grid(side: int, patch: int, image_size: object, where: str) -> dict[str, int]:
    """Return image size and stride that make a grid of the given side."""
    if image_size is not None:
        size = check_field(VimConfig, "image_size", image_size, "input_size")
    else:
        gap = RELEASED_IMAGE_SIZE - patch
        fits = side > 1 and 0 <= gap and gap % (side - 1) == 0
        size = RELEASED_IMAGE_SIZE if fits else side * patch
    stride = (size - patch) // (side - 1) if side > 1 else patch
    if stride < 1 or (size - patch) // stride + 1 != side:
        raise CheckpointError(
            f"{where} has {side} x {side} patches of side {patch}, which images of "
            f"side {size} do not give at any stride."
        )
    return {"image_size": size, "stride": stride}
