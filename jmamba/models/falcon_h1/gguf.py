"""What llama.cpp calls Falcon-H1, whose multipliers it keeps in the weights."""

from typing import Any

import numpy as np

from jmamba.models.falcon_h1.config import FalconH1Config
from jmamba.models.gguf_dialect import GGUFDialect, Header, Pair, scaled
from jmamba.models.hybrid.gguf import (
    ATTENTION_NAMES,
    LAYER,
    SWIGLU_NAMES,
    hybrid_pairs,
    hybrid_sizes,
    map_pairs,
    read_heads_of,
    read_hybrid,
)
from jmamba.models.mamba2.gguf import heads_pairs

_NORM = f"{LAYER}pre_ff_layernorm.weight"


def _factors(config: FalconH1Config) -> dict[str, Any]:
    """Return what is multiplied into a tensor, by the end of transformers' name."""
    inputs = config.attention_in_multiplier
    gate, down = config.feed_forward_multipliers
    groups = config.num_groups * config.d_state
    widths = (config.d_inner, config.d_inner, groups, groups, config.num_heads)
    return {
        "embed_tokens.weight": config.embedding_multiplier,
        "lm_head.weight": config.head_multiplier,
        "q_proj.weight": inputs,
        "k_proj.weight": inputs * config.key_multiplier,
        "v_proj.weight": inputs,
        "o_proj.weight": config.attention_out_multiplier,
        "mamba.in_proj.weight": config.ssm_in_multiplier
        * np.repeat(np.asarray(config.ssm_multipliers), widths),
        "mamba.out_proj.weight": config.ssm_out_multiplier,
        "gate_proj.weight": gate,
        "down_proj.weight": down,
    }


def _pairs(config: FalconH1Config) -> list[Pair]:
    plain = [
        *hybrid_pairs("final_layernorm", "pre_ff_layernorm"),
        *heads_pairs(f"{LAYER}mamba.", config),
        *map_pairs("self_attn", ATTENTION_NAMES),
        *map_pairs("feed_forward", SWIGLU_NAMES),
    ]
    plain = [
        p._replace(names=("blk.{}.ffn_norm",)) if p.key == _NORM else p for p in plain
    ]
    factors = _factors(config)
    found = []
    for pair in plain:
        ends = [end for end in factors if pair.key.endswith(end)]
        found.append(scaled(pair, factors[ends[0]]) if ends else pair)
    return found


def _read(header: Header) -> dict[str, Any]:
    return {
        **read_hybrid(header),
        **read_heads_of(header),
        "model_type": "falcon_h1",
        "mamba_d_ssm": header.entry("ssm.inner_size"),
        "mamba_expand": 2,  # not read beside it
        "mamba_rms_norm": any(".ssm_norm" in name for name in header.shapes),
        "mamba_norm_before_gate": False,
        "head_dim": header.entry("attention.key_length"),
        "intermediate_size": header.entry("feed_forward_length"),
        "rope_theta": header.entry("rope.freq_base", 10000.0),
    }


def _write(config: FalconH1Config) -> dict[str, Any]:
    return {
        **hybrid_sizes(config, config.num_heads),
        "ssm.group_count": config.num_groups,
        "attention.key_length": config.query_width,
        "attention.value_length": config.query_width,
        "rope.freq_base": float(config.rope_theta),
    }


def _why_not(config: FalconH1Config) -> str | None:
    if tuple(config.dt_limit) != (0.0, float("inf")):
        return f"keeps its step sizes in {tuple(config.dt_limit)}"
    if config.is_normed and config.norm_before_gate:
        return "normalises before its gate"
    if config.use_bias or config.use_attention_bias or config.use_feed_forward_bias:
        return "has biases"
    if config.tie_embeddings and config.embedding_multiplier != config.head_multiplier:
        return "scales its embeddings and its head, which are one table, otherwise"
    return None


FALCON_H1_GGUF = GGUFDialect(
    kind="falcon-h1", pairs=_pairs, read=_read, write=_write, refusal=_why_not
)
