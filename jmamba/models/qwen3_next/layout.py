"""Configurations of Qwen3-Next checkpoints, read and written."""

import reprlib
from collections.abc import Mapping
from typing import Any

from jmamba.files.errors import CheckpointError
from jmamba.models.dialects import read_entry, read_size
from jmamba.models.hybrid.config import EXPERTS, mixer_kind
from jmamba.models.hybrid.layout import (
    AROUND,
    read_delta_heads,
    read_kinds,
    read_kv_heads,
    read_shared,
    read_theta,
    write_around,
    write_delta_heads,
)
from jmamba.models.olmo_hybrid.layout import KINDS
from jmamba.models.qwen3_next.config import Qwen3NextConfig

_SIZES = {
    "d_feed_forward": ("intermediate_size", 5632),
    "d_expert": ("moe_intermediate_size", 512),
    "d_shared": ("shared_expert_intermediate_size", 512),
    "num_experts": ("num_experts", 512),
    "experts_per_token": ("num_experts_per_tok", 10),
    "query_width": ("head_dim", 256),
}
"""Field -> entry of a size, and its default."""

_OWN = (
    *(name for name, _ in _SIZES.values()),
    *"layer_types full_attention_interval decoder_sparse_step mlp_only_layers".split(),
    *"norm_topk_prob linear_num_key_heads linear_num_value_heads".split(),
    *"linear_key_head_dim linear_value_head_dim linear_conv_kernel_dim".split(),
    # how it is trained
    *"output_router_logits router_aux_loss_coef".split(),
)
_IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
_HEADS = {
    "num_value_heads": 32,
    "num_key_heads": 16,
    "key_width": 128,
    "value_width": 128,
    "d_conv": 4,
}


def read_qwen3_next(raw: Mapping[str, Any]) -> tuple[Qwen3NextConfig, str]:
    """Return the configuration and the layout of a config.json.

    Raises:
      CheckpointError: it says something that is not computed.
    """
    kind = Qwen3NextConfig
    fields = read_shared(kind, raw, _OWN, ids=_IDS, norm_eps=1e-6, known=AROUND)
    fields["num_query_heads"] = read_size(
        kind, raw, "num_query_heads", "num_attention_heads", default=16
    )
    sizes = {
        field: read_size(kind, raw, field, name, default=default)
        for field, (name, default) in _SIZES.items()
        if field != "num_experts"
    }
    experts = read_entry(kind, raw, "num_experts", "num_experts", 512)
    return kind(
        **fields,
        **sizes,
        **read_delta_heads(kind, raw, **_HEADS),
        delta_norm_eps=fields["norm_eps"],
        num_experts=experts,
        renormalise_experts=read_entry(
            kind, raw, "renormalise_experts", "norm_topk_prob", True
        ),
        share_experts=True,
        gate_shared=True,
        num_kv_heads=read_kv_heads(kind, raw, 2),
        rope_width=_rotated(raw, sizes["query_width"]),
        rope_theta=read_theta(raw),
        layer_kinds=_read_kinds(raw, fields["num_layers"], experts),
    ), "hf"


def _rotated(raw: Mapping, width: int) -> int:
    """Return how many numbers of a head are rotated."""
    rope = raw.get("rope_parameters") or {}
    share = rope.get("partial_rotary_factor", raw.get("partial_rotary_factor", 0.25))
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise CheckpointError(
            f"partial_rotary_factor must be above 0 and at most 1, but is {share!r}."
        )
    return int(width * share)


def _read_kinds(raw: Mapping, count: int, experts: int) -> tuple[str, ...]:
    every, step = (
        raw.get(name, default)
        for name, default in (
            ("full_attention_interval", 4),
            ("decoder_sparse_step", 1),
        )
    )
    dense = raw.get("mlp_only_layers") or []
    is_whole = all(type(x) is int and x > 0 for x in (every, step))
    if not is_whole or not isinstance(dense, list):
        raise CheckpointError(
            "full_attention_interval and decoder_sparse_step must be whole numbers "
            "from 1 on and mlp_only_layers a list, but they are "
            f"{reprlib.repr(every)}, {reprlib.repr(step)} and {reprlib.repr(dense)}."
        )
    usual = [
        "linear_attention" if (i + 1) % every else "full_attention"
        for i in range(count)
    ]
    kinds = read_kinds(raw, usual, KINDS)
    return tuple(
        kind + EXPERTS * (experts > 0 and i not in dense and (i + 1) % step == 0)
        for i, kind in enumerate(kinds)
    )


def write_qwen3_next(config: Qwen3NextConfig, *, dtype: str) -> dict[str, Any]:
    """Return the `config.json` of a model.

    Args:
      config: the model.
      dtype: dtype of the stored weights.
    """
    names = {ours: theirs for theirs, ours in KINDS.items()}
    kinds = enumerate(config.layer_kinds)
    return {
        **write_around(config, kind="Qwen3NextForCausalLM", dtype=dtype),
        **write_delta_heads(config),
        **{name: getattr(config, field) for field, (name, _) in _SIZES.items()},
        "model_type": "qwen3_next",
        "layer_types": [names[mixer_kind(kind)] for kind in config.layer_kinds],
        "mlp_only_layers": [i for i, kind in kinds if not kind.endswith(EXPERTS)],
        "norm_topk_prob": config.renormalise_experts,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": config.rope_theta,
            "partial_rotary_factor": config.rope_width / config.query_width,
        },
    }


def why_no_qwen3_next(config: Qwen3NextConfig | None) -> str | None:
    """Return what a model is that transformers does not read; None if it does."""
    if config is None:
        return None
    if config.beta_limit != 1.0 or config.delta_norm_eps != config.norm_eps:
        return "has a greater beta, or an epsilon of its own in gated delta nets"
    if not config.rope_width or not config.d_feed_forward:
        return "does not rotate its heads, or has no width of feed-forward layers"
    if config.use_feed_forward_bias or not (
        config.share_experts and config.gate_shared
    ):
        return "has other feed-forward layers"
    scales = config.embedding_multiplier, config.residual_multiplier
    if config.attention_scale or {*scales, config.logits_divisor} != {1.0}:
        return "scales its embeddings, blocks, scores or logits"
    return None
