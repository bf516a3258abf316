"""Configurations of OLMo-hybrid checkpoints, read and written."""

from collections.abc import Mapping
from typing import Any

from jmamba.files.errors import CheckpointError
from jmamba.models.dialects import read_size
from jmamba.models.hybrid.config import ATTENTION, DELTA
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
from jmamba.models.olmo_hybrid.config import OlmoHybridConfig

_OWN = (
    "layer_types intermediate_size linear_num_key_heads linear_num_value_heads"
    " linear_key_head_dim linear_value_head_dim linear_conv_kernel_dim"
    " linear_allow_neg_eigval"
    # of the initial weights
    " linear_a_log_min linear_a_log_max linear_dt_min linear_dt_max"
    " linear_dt_init_floor".split()
)
_IDS = {"bos_token_id": None, "eos_token_id": 100257, "pad_token_id": 100277}
KINDS = {"linear_attention": DELTA, "full_attention": ATTENTION}
"""What files call kinds of layers -> what they are called here."""


def read_olmo_hybrid(raw: Mapping[str, Any]) -> tuple[OlmoHybridConfig, str]:
    """Return the configuration and the layout of a config.json.

    Raises:
      CheckpointError: it says something that is not computed.
    """
    kind = OlmoHybridConfig
    fields = read_shared(kind, raw, _OWN, ids=_IDS, norm_eps=1e-6, known=AROUND)
    count, heads = fields["num_layers"], fields["num_query_heads"]
    usual = [
        "full_attention" if i % 4 == 3 or (i == count - 1 and count < 4) else
        "linear_attention"
        for i in range(count)
    ]  # fmt: skip
    width = fields["d_model"] // heads
    # null, as released models say, is not to rotate; to say nothing is to rotate
    rope = raw.get("rope_parameters") or {}
    is_rotated = rope.get("rope_theta", 1e4) is not None
    turns = raw.get("linear_allow_neg_eigval", True)
    if not isinstance(turns, bool):
        raise CheckpointError(
            f"linear_allow_neg_eigval must be true or false, but is {turns!r}."
        )
    return kind(
        **fields,
        **read_delta_heads(
            kind,
            raw,
            num_value_heads=heads,
            num_key_heads=heads,
            key_width=int(
                0.75 * fields["d_model"] / (raw.get("linear_num_key_heads") or heads)
            ),
            d_conv=4,
        ),
        num_kv_heads=read_kv_heads(kind, raw, heads),
        rope_width=width if is_rotated else 0,
        rope_theta=read_theta(raw) if is_rotated else 1e4,
        layer_kinds=read_kinds(raw, usual, KINDS),
        beta_limit=2.0 if turns else 1.0,
        d_feed_forward=read_size(
            kind, raw, "d_feed_forward", "intermediate_size", default=11008
        ),
    ), "hf"


def write_olmo_hybrid(config: OlmoHybridConfig, *, dtype: str) -> dict[str, Any]:
    """Return the `config.json` of a model.

    Args:
      config: the model.
      dtype: dtype of the stored weights.
    """
    names = {ours: theirs for theirs, ours in KINDS.items()}
    theta = config.rope_theta if config.rope_width else None
    return {
        **write_around(config, kind="OlmoHybridForCausalLM", dtype=dtype),
        **write_delta_heads(config),
        "model_type": "olmo_hybrid",
        "layer_types": [names[kind] for kind in config.layer_kinds],
        "linear_allow_neg_eigval": config.beta_limit == 2.0,
        "intermediate_size": config.d_feed_forward,
        "rope_parameters": {"rope_theta": theta, "rope_type": "default"},
    }


def why_no_olmo_hybrid(config: OlmoHybridConfig | None) -> str | None:
    """Return what a model is that transformers does not read; None if it does."""
    if config is None:
        return None
    if {*config.layer_kinds} != {DELTA, ATTENTION}:
        return "has not both gated delta nets and attention"
    if config.beta_limit not in (1.0, 2.0) or config.delta_norm_eps != 1e-5:
        return "has another limit of beta than 1 and 2, or another epsilon than 1e-5"
    if not config.d_feed_forward or config.use_feed_forward_bias:
        return "has other feed-forward layers"
    if config.rope_width not in (0, config.query_width):
        return "rotates a part of its heads"
    if config.query_width * config.num_query_heads != config.d_model:
        return f"has heads of {config.query_width} that do not make up its width"
    scales = config.embedding_multiplier, config.residual_multiplier
    if config.attention_scale or {*scales, config.logits_divisor} != {1.0}:
        return "scales its embeddings, blocks, scores or logits"
    return None
