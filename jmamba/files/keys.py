"""Key tables: which PyTorch tensor is which parameter, one table per layout."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Path = tuple[str, ...]
"""Where a parameter is in the model's tree, such as ("layers", "norm", "scale")."""


class Change(NamedTuple):
    """How a tensor of one layer changes on the way in and on the way out."""

    from_torch: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


SAME = Change(lambda x: x, lambda x: x)
TRANSPOSE = Change(np.transpose, np.transpose)  # torch keeps (out, in), we (in, out)
DEPTHWISE = Change(lambda w: w[:, 0, :], lambda w: w[:, None, :])  # d 1 k <-> d k


class Row(NamedTuple):
    """One row of a table; a key with {} has one tensor per layer."""

    key: str
    path: Path
    change: Change = SAME


class Slot(NamedTuple):
    """Where one tensor of a checkpoint goes: into a parameter, or a layer of it."""

    path: Path
    layer: int | None
    change: Change
    shape: tuple[int, ...]


HEAD_KEY = "lm_head.weight"

_MIXER = {
    "in_proj.weight": ("in_proj.kernel", TRANSPOSE),
    "in_proj.bias": ("in_proj.bias", SAME),
    "conv1d.weight": ("conv1d.weight", DEPTHWISE),
    "conv1d.bias": ("conv1d.bias", SAME),
    "x_proj.weight": ("x_proj.kernel", TRANSPOSE),
    **{f"gates.{name}": (f"gates.{name}", SAME) for name in ("P", "v", "S_B", "K")},
    "dt_proj.weight": ("dt_proj.kernel", TRANSPOSE),
    "dt_proj.bias": ("dt_bias", SAME),  # added inside the scan, hence not dt_proj's
    "A_log": ("A_log", SAME),
    "D": ("D", SAME),
    "out_proj.weight": ("out_proj.kernel", TRANSPOSE),
    "out_proj.bias": ("out_proj.bias", SAME),
}


def _table(embedding_key: str) -> tuple[Row, ...]:
    layers = "backbone.layers.{}."
    mixer = (
        Row(f"{layers}mixer.{key}", ("layers", "mixer", *name.split(".")), change)
        for key, (name, change) in _MIXER.items()
    )
    return (
        Row(embedding_key, ("embedding",)),
        Row(layers + "norm.weight", ("layers", "norm", "scale")),
        *mixer,
        Row("backbone.norm_f.weight", ("norm_f", "scale")),
        Row(HEAD_KEY, ("lm_head",), TRANSPOSE),
    )


PATCHES = Change(  # out colours rows columns <-> rows columns colours out
    lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1)
)
BATCHED = Change(lambda x: x[0], lambda x: x[None])  # 1 l m <-> l m
TWICE_BATCHED = Change(lambda x: x[0, 0], lambda x: x[None, None])  # 1 1 m <-> m


def _vision_table() -> tuple[Row, ...]:
    """Return Vim's table: one more letter for the backward direction."""

    def backward(key: str) -> str:
        if key == "A_log":
            return "A_b_log"
        name, dot, rest = key.partition(".")
        return f"{name}_b{dot}{rest}"

    rows = []
    for key, (name, change) in _MIXER.items():
        shared = key.startswith(("in_proj", "out_proj"))
        sides = [("forward",), ("backward",)] if not shared else [()]
        for side in sides:
            path = ("layers", "mixer", *side, *name.split("."))
            own = backward(key) if side == ("backward",) else key
            rows.append(Row(f"layers.{{}}.mixer.{own}", path, change))
    return (
        Row("cls_token", ("class_token",), TWICE_BATCHED),
        Row("pos_embed", ("position",), BATCHED),
        Row("patch_embed.proj.weight", ("patch_embed", "kernel"), PATCHES),
        Row("patch_embed.proj.bias", ("patch_embed", "bias")),
        Row("layers.{}.norm.weight", ("layers", "norm", "scale")),
        *rows,
        *(
            Row(f"sorting.{side}", ("sorting", side))
            for side in ("forward", "backward")
        ),
        Row("norm_f.weight", ("norm_f", "scale")),
        Row("head.weight", ("head", "kernel"), TRANSPOSE),
        Row("head.bias", ("head", "bias")),
    )


TABLES = {
    "original": _table("backbone.embedding.weight"),
    "hf": _table("backbone.embeddings.weight"),
    "falcon": _table("backbone.embeddings.weight"),  # its RMS norms have no weights
    "vim": _vision_table(),
}
"""Layout -> table: mamba-ssm's original, the -hf one, Falcon-Mamba's and Vim's."""


def layout_of(layout: str, keys) -> str:
    """Return the table that fits the keys at hand.

    Early -hf conversions kept the original's singular `embedding`; transformers reads
    either, and so do we.
    """
    return "original" if "backbone.embedding.weight" in keys else layout


def slots(layout: str, shapes: Mapping[Path, tuple[int, ...]]) -> dict[str, Slot]:
    """Return key -> slot for every tensor that a model with these parameters needs.

    Args:
      layout: a name in `TABLES`.
      shapes: shape of each parameter, layers stacked along the first axis.

    Examples:
      >>> found = slots("hf", {("layers", "mixer", "x_proj", "kernel"): (2, 32, 12)})
      >>> for key, slot in found.items():
      ...     print(key, slot.layer, slot.shape)
      backbone.layers.0.mixer.x_proj.weight 0 (12, 32)
      backbone.layers.1.mixer.x_proj.weight 1 (12, 32)
    """
    found = {}
    for key, path, change in TABLES[layout]:
        if path not in shapes:  # no bias, a tied head, free gates
            continue
        shape = shapes[path]
        if "{}" not in key:
            found[key] = Slot(path, None, change, _torch_shape(shape, change))
            continue
        torch_shape = _torch_shape(shape[1:], change)
        for layer in range(shape[0]):
            found[key.format(layer)] = Slot(path, layer, change, torch_shape)
    return found


def _torch_shape(shape: tuple[int, ...], change: Change) -> tuple[int, ...]:
    return change.to_torch(np.broadcast_to(np.zeros(()), shape)).shape
