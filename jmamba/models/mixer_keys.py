"""What checkpoints of all selective mixers have in common: names, and mistakes."""

from collections.abc import Mapping

from jmamba.files.keys import DEPTHWISE, SAME, TRANSPOSE

MIXER_KEYS = {
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
"""Tensor of a mixer -> its parameter, and how it changes."""


def explain_adapted(found: Mapping[str, tuple[int, ...]]) -> str | None:
    """Say what to do with weights that hold an adapter beside the model's own.

    Args:
      found: name -> shape that is there.

    Returns:
      A sentence, or None if they hold none.
    """
    if not any(".lora_" in key or ".base_layer." in key for key in found):
        return None
    return (
        "The weights hold a LoRA adapter that is not merged: in PEFT type "
        "model.merge_and_unload().save_pretrained(...), and load what that writes."
    )


def explain_gates(found: Mapping[str, tuple[int, ...]], definite: str) -> str | None:
    """Say what to do if gates are definite in a model or its weights, but not in both.

    Args:
      found: name -> shape that is there.
      definite: the configuration's.

    Returns:
      A sentence, or None if they agree.
    """
    there = any(".gates" in key for key in found)
    if there == (definite != "free"):
        return None
    if there:
        return (
            "The weights are those of definite gates: config.json must say which "
            'ones, "definite": "pos" or another mode.'
        )
    return (
        f"The weights are those of free gates, and the configuration asks for "
        f"{definite!r} ones, which most free weights are far from. Load the model "
        "with free gates and give it to "
        f"jmamba.surgery.project_from_pretrained(model, {definite!r}), which makes an "
        "approximation to train on."
    )
