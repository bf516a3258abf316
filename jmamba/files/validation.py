"""Checking what a checkpoint holds against what the model needs, before reading it."""

from collections.abc import Callable, Mapping

from jmamba.files.errors import CheckpointError, compress


def check_keys(
    needed: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    where: str,
    *,
    says: str = "its config.json",
    explain: Callable[[Mapping[str, tuple[int, ...]]], str] | None = None,
) -> None:
    """Raise unless the found names and shapes are the needed ones.

    Args:
      needed: name -> shape that the model needs.
      found: name -> shape that is there.
      where: what to call the checkpoint.
      says: what the needed shapes are from.
      explain: makes the last sentence of the message; None for `describe`.

    Raises:
      CheckpointError: tensors are missing, left over or of another shape; the message
        lists all of them, and the sizes that the found ones have.
    """
    shapes = [
        f"{key} is {found[key]}, needs {shape}"
        for key, shape in needed.items()
        if key in found and tuple(found[key]) != tuple(shape)
    ]
    lists = {
        "missing": compress(key for key in needed if key not in found),
        "not part of the model": compress(key for key in found if key not in needed),
        "of another shape": compress(shapes, separator="; "),
    }
    wrong = "; ".join(f"{name}: {keys}" for name, keys in lists.items() if keys)
    if wrong:
        raise CheckpointError(
            f"The weights in {where} do not fit {says}. Tensors {wrong}. "
            f"{(explain or describe)(found)}"
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
        f"jmamba.dynamics.project_from_pretrained(model, {definite!r}), which makes an "
        "approximation to train on."
    )


def describe(found: Mapping[str, tuple[int, ...]]) -> str:
    """Say which sizes the tensors themselves have, to be compared with config.json."""
    layers = {k.split("layers.")[1].split(".")[0] for k in found if "layers." in k}
    says = [f"num_hidden_layers {len(layers)}"] if layers else []
    for key, shape in found.items():
        if key.endswith(("embedding.weight", "embeddings.weight")) and len(shape) == 2:
            says.append(f"vocab_size {shape[0]}, hidden_size {shape[1]}")
        if key.endswith("layers.0.mixer.A_log") and len(shape) == 2:
            says.append(f"intermediate_size {shape[0]}, state_size {shape[1]}")
        if key.endswith("layers.0.mixer.dt_proj.weight") and len(shape) == 2:
            says.append(f"time_step_rank {shape[1]}")
    if not says:
        return "Is this a Mamba language model?"
    return f"By their shapes the weights have {', '.join(says)}: correct config.json."
