"""What llama.cpp calls Bamba."""

from typing import Any

from jmamba.models.bamba.config import BambaConfig
from jmamba.models.gguf_dialect import (
    GGUFDialect,
    Header,
    Pair,
    why_no_heads,
    why_no_recurrence,
)
from jmamba.models.granite.gguf import KIND, ROTATES, granite_sizes, has_no_scales
from jmamba.models.hybrid.config import ATTENTION
from jmamba.models.hybrid.gguf import (
    LAYER,
    SWIGLU_NAMES,
    has_feed_forward_bias,
    hybrid_pairs,
    map_pairs,
    neighbouring_pairs,
    read_heads_of,
    read_hybrid,
    read_layer_kinds,
)
from jmamba.models.mamba2.gguf import heads_pairs


def _pairs(config: BambaConfig) -> list[Pair]:
    return [
        *hybrid_pairs("final_layernorm", "pre_ff_layernorm"),
        *heads_pairs(f"{LAYER}mamba.", config),
        *neighbouring_pairs(config),
        *map_pairs("feed_forward", SWIGLU_NAMES),
    ]


def _read(header: Header) -> dict[str, Any]:
    kinds = enumerate(read_layer_kinds(header))
    return {
        **read_hybrid(header),
        **read_heads_of(header),
        "model_type": "bamba",
        "attn_layer_indices": [i for i, kind in kinds if kind == ATTENTION],
        "intermediate_size": header.entry("feed_forward_length"),
        "mlp_bias": has_feed_forward_bias(header),
        "rope_theta": header.entry("rope.freq_base", 10000.0),
    }


BAMBA_GGUF = GGUFDialect(
    kind=KIND,
    pairs=_pairs,
    read=_read,
    write=granite_sizes,
    refusal=lambda config: why_no_recurrence(config) or why_no_heads(config),
    owns=lambda header: header.entry(ROTATES, True) and has_no_scales(header),
)
