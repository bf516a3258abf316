"""What llama.cpp calls Jamba without experts."""

from typing import Any

from jmamba.models.gguf_dialect import (
    GGUFDialect,
    Header,
    Pair,
    same,
    why_no_recurrence,
)
from jmamba.models.hybrid.gguf import (
    ATTENTION_NAMES,
    LAYER,
    SWIGLU_NAMES,
    hybrid_pairs,
    hybrid_sizes,
    map_pairs,
    read_hybrid,
    read_layer_kinds,
)
from jmamba.models.jamba.config import JambaConfig
from jmamba.models.jamba.layout import is_attention, period_of
from jmamba.models.mamba.gguf import mamba_pairs

_NORMS = {
    f"{LAYER}mamba.{name}_layernorm.weight": f"blk.{{}}.ssm_{name}_norm.weight"
    for name in ("dt", "b", "c")
}


def _pairs(config: JambaConfig) -> list[Pair]:
    return [
        *hybrid_pairs("final_layernorm", "pre_ff_layernorm"),
        *mamba_pairs(f"{LAYER}mamba."),
        *same(_NORMS),
        *map_pairs("self_attn", ATTENTION_NAMES),
        *map_pairs("feed_forward", SWIGLU_NAMES),
    ]


def _read(header: Header) -> dict[str, Any]:
    period, offset = period_of(read_layer_kinds(header), is_attention)
    return {
        **read_hybrid(header),
        "model_type": "jamba",
        "attn_layer_period": period,
        "attn_layer_offset": offset,
        "num_experts": header.entry("expert_count", 0) or 1,
        "intermediate_size": header.entry("feed_forward_length"),
        "mamba_dt_rank": header.entry("ssm.time_step_rank"),
    }


JAMBA_GGUF = GGUFDialect(
    kind="jamba",
    pairs=_pairs,
    read=_read,
    write=lambda config: hybrid_sizes(config, config.dt_rank),
    refusal=why_no_recurrence,
)
