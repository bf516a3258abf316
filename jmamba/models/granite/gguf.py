"""What llama.cpp calls Granite 4 H."""

from typing import Any

import numpy as np

from jmamba.models.gguf_dialect import (
    GGUFDialect,
    Header,
    Pair,
    same,
    why_no_heads,
    why_no_recurrence,
)
from jmamba.models.granite.config import GraniteConfig
from jmamba.models.hybrid.gguf import (
    LAYER,
    hybrid_pairs,
    hybrid_sizes,
    neighbouring_pairs,
    read_heads_of,
    read_hybrid,
    read_layer_kinds,
)
from jmamba.models.mamba2.gguf import heads_pairs

KIND = "granitehybrid"
ROTATES = "rope.scaling.finetuned"
"""What llama.cpp reads as whether heads are rotated."""

_SCALES = {
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
    "attention_multiplier": "attention.scale",
}
_GATE_AND_UP = Pair(  # one map in transformers
    f"{LAYER}shared_mlp.input_linear.weight",
    ("blk.{}.ffn_gate.weight", "blk.{}.ffn_up.weight"),
    lambda gate, up: np.concatenate([gate, up]),
    lambda both: tuple(np.split(both, 2)),
)
_DOWN = {f"{LAYER}shared_mlp.output_linear.weight": "blk.{}.ffn_down.weight"}


def _pairs(config: GraniteConfig) -> list[Pair]:
    return [
        *hybrid_pairs("norm", "post_attention_layernorm"),
        *heads_pairs(f"{LAYER}mamba.", config),
        *neighbouring_pairs(config),
        *same(_DOWN),
        _GATE_AND_UP,
    ]


def _read(header: Header) -> dict[str, Any]:
    scales = {name: header.entry(entry, 0.0) or None for name, entry in _SCALES.items()}
    rotates = header.entry(ROTATES, True)
    return {
        **read_hybrid(header),
        **read_heads_of(header),
        **{name: scale for name, scale in scales.items() if scale is not None},
        "model_type": "granitemoehybrid",
        "layer_types": read_layer_kinds(header),
        "num_local_experts": header.entry("expert_count", 0),
        "shared_intermediate_size": header.entry("feed_forward_length"),
        "position_embedding_type": "rope" if rotates else "nope",
        "rope_theta": header.entry("rope.freq_base", 10000.0),
    }


def granite_sizes(config: Any) -> dict[str, Any]:
    """Return the entries of Granite 4 H and Bamba."""
    rotations = {
        "rope.freq_base": float(config.rope_theta),
        "rope.dimension_count": config.rope_width,
    }
    return {
        **hybrid_sizes(config, config.num_heads),
        "ssm.group_count": config.num_groups,
        ROTATES: bool(config.rope_width),
        **(rotations if config.rope_width else {}),
    }


def _write(config: GraniteConfig) -> dict[str, Any]:
    scales = (
        config.embedding_multiplier,
        config.residual_multiplier,
        config.logits_divisor,
        config.attention_scale or config.query_width**-0.5,
    )
    named = zip(_SCALES.values(), map(float, scales), strict=True)
    return granite_sizes(config) | dict(named)


def has_no_scales(header: Header) -> bool:
    """Say whether a file of the kind scales nothing, as Bamba's do."""
    return not any(header.entry(entry, 0.0) for entry in _SCALES.values())


GRANITE_GGUF = GGUFDialect(
    kind=KIND,
    pairs=_pairs,
    read=_read,
    write=_write,
    refusal=lambda config: why_no_recurrence(config) or why_no_heads(config),
    owns=lambda header: not (header.entry(ROTATES, True) and has_no_scales(header)),
)
