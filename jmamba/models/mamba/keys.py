"""Names of a language model's tensors: mamba-ssm's, transformers', Falcon-Mamba's."""

from collections.abc import Mapping
from typing import Any

from jmamba.files.keys import TRANSPOSE, Row
from jmamba.models.mixer_keys import MIXER_KEYS, explain_adapted, explain_gates

BASE_PREFIX = "backbone."
HEAD_KEY = "lm_head.weight"
EMBEDDING_PATH = ("embedding",)

ORIGINAL_KEY = "backbone.embedding.weight"
"""Early -hf conversions kept this name; transformers reads either, and so do we."""


def _table(embedding_key: str, *aliases: str) -> tuple[Row, ...]:
    layers = "backbone.layers.{}."
    mixer = (
        Row(f"{layers}mixer.{key}", ("layers", "mixer", *name.split(".")), change)
        for key, (name, change) in MIXER_KEYS.items()
    )
    return (
        Row(embedding_key, EMBEDDING_PATH, aliases=aliases),
        Row(layers + "norm.weight", ("layers", "norm", "scale")),
        *mixer,
        Row("backbone.norm_f.weight", ("norm_f", "scale")),
        Row(HEAD_KEY, ("lm_head",), TRANSPOSE),
    )


TABLES = {
    "original": _table(ORIGINAL_KEY),
    "hf": _table("backbone.embeddings.weight", ORIGINAL_KEY),
    "falcon": _table("backbone.embeddings.weight", ORIGINAL_KEY),  # norms: no weights
}
"""Layout -> table."""


def explain_text_mismatch(found: Mapping[str, tuple[int, ...]], config: Any) -> str:
    """Say what to do if tensors are not those of a model of a configuration."""
    return (
        explain_adapted(found)
        or explain_gates(found, config.definite)
        or _explain_headless(found, config)
        or describe_sizes(found)
    )


def _explain_headless(found: Mapping[str, tuple[int, ...]], config: Any) -> str | None:
    if config.tie_embeddings or HEAD_KEY in found:
        return None
    return (
        "Its config.json says that the head is not the embedding, and the weights have "
        "no head, as those of a MambaModel or FalconMambaModel: save the model with it "
        '(...ForCausalLM), or, if the head is the embedding, write "tie_word_embeddings'
        '": true into config.json ("tie_embeddings" in an original state-spaces one).'
    )


def describe_sizes(found: Mapping[str, tuple[int, ...]]) -> str:
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
