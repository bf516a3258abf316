"""What checkpoints of all selective mixers have in common: names, and mistakes."""

from collections.abc import Mapping
from typing import Any

from jmamba.files.keys import DEPTHWISE, SAME, TRANSPOSE, Change, ParameterPath, Row

BASE_PREFIX = "backbone."
HEAD_KEY = "lm_head.weight"
EMBEDDING_PATH = ("embedding",)
HF_KEY = "backbone.embeddings.weight"
ORIGINAL_KEY = "backbone.embedding.weight"
"""Early -hf conversions kept this name; transformers reads either, and so do we."""

AROUND_KEYS = {
    "in_proj.weight": ("in_proj.kernel", TRANSPOSE),
    "in_proj.bias": ("in_proj.bias", SAME),
    "conv1d.weight": ("conv1d.weight", DEPTHWISE),
    "conv1d.bias": ("conv1d.bias", SAME),
    "A_log": ("A_log", SAME),
    "D": ("D", SAME),
    "out_proj.weight": ("out_proj.kernel", TRANSPOSE),
    "out_proj.bias": ("out_proj.bias", SAME),
}
"""Tensor that all of these mixers have -> its parameter, and how it changes."""

HEADS_KEYS = {
    **AROUND_KEYS,
    "dt_bias": ("dt_bias", SAME),
    "norm.weight": ("norm.scale", SAME),
}
"""The same of all tensors of a Mamba-2 mixer."""

MIXER_KEYS = {
    **AROUND_KEYS,
    "x_proj.weight": ("x_proj.kernel", TRANSPOSE),
    **{f"gates.{name}": (f"gates.{name}", SAME) for name in ("P", "v", "S_B", "K")},
    "dt_proj.weight": ("dt_proj.kernel", TRANSPOSE),
    "dt_proj.bias": ("dt_bias", SAME),  # added inside the scan, hence not dt_proj's
}
"""The same of all tensors of a Mamba-1 mixer."""


def language_table(
    mixer: Mapping[str, tuple[str, Change]], embedding_key: str, *aliases: str
) -> tuple[Row, ...]:
    """Return the key table of a language model.

    Args:
      mixer: tensor of its mixers -> parameter, and how it changes.
      embedding_key: name of the embedding.
      *aliases: other names that it may have.
    """
    layers = "backbone.layers.{}."
    rows = (
        Row(f"{layers}mixer.{key}", ("layers", "mixer", *name.split(".")), change)
        for key, (name, change) in mixer.items()
    )
    return (
        Row(embedding_key, EMBEDDING_PATH, aliases=aliases),
        Row(layers + "norm.weight", ("layers", "norm", "scale")),
        *rows,
        Row("backbone.norm_f.weight", ("norm_f", "scale")),
        Row(HEAD_KEY, ("lm_head",), TRANSPOSE),
    )


def tied_copies(config: Any) -> dict[str, ParameterPath]:
    """Return the tensors that a checkpoint may hold a second time."""
    return {HEAD_KEY: EMBEDDING_PATH} if config.tie_embeddings else {}


def explain_headless(
    found: Mapping[str, tuple[int, ...]], config: Any, headless: str
) -> str | None:
    """Say what to do if the head is not there.

    Args:
      found: name -> shape that is there.
      config: of the model.
      headless: the classes of transformers that have none.

    Returns:
      A sentence, or None if it is there, or is the embedding.
    """
    if config.tie_embeddings or HEAD_KEY in found:
        return None
    return (
        "Its config.json says that the head is not the embedding, and the weights have "
        f"no head, as those of a {headless}: save the model with it "
        '(...ForCausalLM), or, if the head is the embedding, write "tie_word_embeddings'
        '": true into config.json ("tie_embeddings" in an original state-spaces one).'
    )


_SIZES = (  # end of the name, number of axes, what the shape says
    ("embedding.weight", 2, "vocab_size {}, hidden_size {}"),
    ("embeddings.weight", 2, "vocab_size {}, hidden_size {}"),
    ("layers.0.mixer.A_log", 2, "intermediate_size {}, state_size {}"),
    ("layers.0.mixer.A_log", 1, "num_heads {}"),
    ("layers.0.mixer.dt_proj.weight", 2, "time_step_rank {1}"),
)


def describe_sizes(found: Mapping[str, tuple[int, ...]]) -> str:
    """Say which sizes the tensors themselves have, to be compared with config.json.

    Args:
      found: name -> shape that is there.
    """
    layers = {k.split("layers.")[1].split(".")[0] for k in found if "layers." in k}
    says = [f"num_hidden_layers {len(layers)}"] if layers else []
    for key, shape in found.items():
        for end, axes, sentence in _SIZES:
            if key.endswith(end) and len(shape) == axes:
                says.append(sentence.format(*shape))
    if not says:
        return "Is this a Mamba language model?"
    return f"By their shapes the weights have {', '.join(says)}: correct config.json."


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
