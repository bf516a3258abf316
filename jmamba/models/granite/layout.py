"""Configurations of Granite 4 H checkpoints, read and written."""

import reprlib
from collections.abc import Mapping
from typing import Any

from jmamba.files.errors import CheckpointError
from jmamba.models.dialects import read_entry, read_size
from jmamba.models.granite.config import GraniteConfig
from jmamba.models.hybrid.config import EXPERTS, mixer_kind
from jmamba.models.hybrid.layout import (
    read_heads,
    read_kinds,
    read_kv_heads,
    read_shared,
    read_theta,
    why_not_theirs,
    write_around,
    write_heads,
)

_OWN = (
    "layer_types layers_block_type num_local_experts shared_intermediate_size"
    " position_embedding_type embedding_multiplier residual_multiplier logits_scaling"
    " attention_multiplier intermediate_size num_experts_per_tok"
    # how it is trained
    " output_router_logits router_aux_loss_coef"
).split()
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}


def read_granite(raw: Mapping[str, Any]) -> tuple[GraniteConfig, str]:
    """Return the configuration and the layout of a config.json.

    Raises:
      CheckpointError: it says something that is not computed.
    """
    fields = read_shared(GraniteConfig, raw, _OWN, ids=_IDS, norm_eps=1e-6)
    experts = read_entry(GraniteConfig, raw, "num_experts", "num_local_experts", 8)
    kinds = read_kinds(raw, ["mamba"] * fields["num_layers"])
    rope = raw.get("position_embedding_type")
    if rope not in (None, "nope", "rope"):
        raise CheckpointError(
            f"position_embedding_type must be 'rope' or null, but is "
            f"{reprlib.repr(rope)}."
        )
    heads = fields["num_query_heads"]
    numbers: dict[str, Any] = {
        field: float(read_entry(GraniteConfig, raw, field, name, 1.0))
        for field, name in _NUMBERS.items()
    }
    width = fields["d_model"] // heads
    return GraniteConfig(
        **fields,
        **read_heads(GraniteConfig, raw),
        **numbers,
        num_kv_heads=read_kv_heads(GraniteConfig, raw, heads),
        rope_width=width if rope == "rope" else 0,
        rope_theta=read_theta(raw),
        layer_kinds=tuple(kind + EXPERTS * bool(experts) for kind in kinds),
        num_experts=experts,
        share_experts=bool(experts),
        renormalise_experts=bool(experts),
        **(_read_experts(raw) if experts else {}),
        d_feed_forward=read_size(
            GraniteConfig,
            raw,
            "d_feed_forward",
            "shared_intermediate_size",
            default=1024,
        ),
    ), "hf"


_NUMBERS = {
    "embedding_multiplier": "embedding_multiplier",
    "residual_multiplier": "residual_multiplier",
    "logits_divisor": "logits_scaling",
    "attention_scale": "attention_multiplier",
}
"""Field -> entry of a number that something is scaled by."""


def _read_experts(raw: Mapping) -> dict[str, Any]:
    kind = GraniteConfig
    return {
        "experts_per_token": read_size(
            kind, raw, "experts_per_token", "num_experts_per_tok", default=2
        ),
        "d_expert": read_size(kind, raw, "d_expert", "intermediate_size", default=1024),
    }


def write_granite(config: GraniteConfig, *, dtype: str) -> dict[str, Any]:
    """Return the `config.json` of a model.

    Args:
      config: the model.
      dtype: dtype of the stored weights.
    """
    scale = config.attention_scale or config.query_width**-0.5
    return {
        **write_around(config, kind="GraniteMoeHybridForCausalLM", dtype=dtype),
        **write_heads(config),
        "model_type": "granitemoehybrid",
        "layer_types": [mixer_kind(kind) for kind in config.layer_kinds],
        "num_local_experts": config.num_experts,
        "num_experts_per_tok": config.experts_per_token if config.num_experts else 0,
        **({"intermediate_size": config.d_expert} if config.num_experts else {}),
        "shared_intermediate_size": config.d_feed_forward,
        "position_embedding_type": "rope" if config.rope_width else "nope",
        **{name: getattr(config, field) for field, name in _NUMBERS.items()},
        "attention_multiplier": scale,
    }


def why_no_granite(config: GraniteConfig | None) -> str | None:
    """Return what a model is that transformers does not read; None if it does."""
    if config is None:
        return None
    if not config.d_feed_forward or config.use_feed_forward_bias:
        return "has other feed-forward layers"
    if config.rope_width not in (0, config.query_width):
        return "rotates a part of its heads"
    has_experts = {kind.endswith(EXPERTS) for kind in config.layer_kinds}
    if len(has_experts) > 1:
        return "has experts in some layers"
    if True in has_experts and not (
        config.renormalise_experts and config.share_experts
    ):
        return "has experts without a layer beside them, or weights of another sum"
    return why_not_theirs(config)
