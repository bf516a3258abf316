"""Names of a Vision Mamba's tensors, as its authors have them."""

from collections.abc import Mapping

from jmamba.files.keys import BATCHED, PATCHES, TRANSPOSE, TWICE_BATCHED, Row
from jmamba.models.mixer_keys import MIXER_KEYS, explain_adapted, explain_gates
from jmamba.models.vim.config import VimConfig

LAYOUT = "vim"

RELEASED_FILES = (
    "vim_t_midclstok_76p1acc.pth",
    "vim_s_midclstok_80p5acc.pth",
    "vim_b_midclstok_81p9acc.pth",
    "vim_t_midclstok_ft_78p3acc.pth",
    "vim_s_midclstok_ft_81p6acc.pth",
)
"""Files of Vim's authors on the Hub, the one to prefer first."""


def _table() -> tuple[Row, ...]:
    """Return Vim's table: one more letter for the backward direction."""

    def backward(key: str) -> str:
        if key == "A_log":
            return "A_b_log"
        name, dot, rest = key.partition(".")
        return f"{name}_b{dot}{rest}"

    rows = []
    for key, (name, change) in MIXER_KEYS.items():
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


TABLES = {LAYOUT: _table()}
"""Layout -> table."""


def explain_image_mismatch(
    found: Mapping[str, tuple[int, ...]], config: VimConfig
) -> str:
    """Say what to do if tensors are not those of a model of a configuration."""
    return (
        explain_adapted(found)
        or explain_gates(found, config.definite)
        or _explain_sorting(found, config)
        or "Only bidirectional models of version 2 are read."
    )


def _explain_sorting(
    found: Mapping[str, tuple[int, ...]], config: VimConfig
) -> str | None:
    there = any(key.startswith("sorting.") for key in found)
    wanted = config.reorder != "none" and config.reorder_by == "importance"
    if there == wanted:
        return None
    if there:
        return (
            'The weights are of a model that sorts its tokens: write "reorder" into '
            'config.json, or in Python give Vim.from_pretrained(..., changes={"reorder"'
            ": ...})."
        )
    return (
        "These weights were trained without importance, which is learned with all the "
        "rest: in Python train Vim(config, rngs=...), or load with "
        "Vim.from_pretrained(..., changes={'reorder_by': 'random'})."
    )
