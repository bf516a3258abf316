"""Configurations of Bamba checkpoints, read and written."""

import reprlib
from collections.abc import Mapping
from typing import Any

from jmamba.files.errors import CheckpointError
from jmamba.models.bamba.config import BambaConfig
from jmamba.models.dialects import read_entry, read_size
from jmamba.models.hybrid.config import ATTENTION, MAMBA
from jmamba.models.hybrid.layout import (
    read_heads,
    read_kv_heads,
    read_shared,
    read_theta,
    why_not_theirs,
    write_around,
    write_heads,
)

_OWN = "attn_layer_indices intermediate_size mlp_bias".split()
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def read_bamba(raw: Mapping[str, Any]) -> tuple[BambaConfig, str]:
    """Return the configuration and the layout of a config.json.

    Raises:
      CheckpointError: it says something that is not computed.
    """
    fields = read_shared(BambaConfig, raw, _OWN, ids=_IDS)
    indices = raw.get("attn_layer_indices") or []
    count = fields["num_layers"]
    if not isinstance(indices, list) or not {*indices} <= {*range(count)}:
        raise CheckpointError(
            f"attn_layer_indices must be a list of layers from 0 to {count - 1}, but "
            f"is {reprlib.repr(indices)}."
        )
    width = fields["d_model"] // fields["num_query_heads"]
    feed_forward = read_size(
        BambaConfig, raw, "d_feed_forward", "intermediate_size", default=14336
    )
    return BambaConfig(
        **fields,
        **read_heads(BambaConfig, raw),
        num_kv_heads=read_kv_heads(BambaConfig, raw, 8),
        rope_width=width // 2,  # of any file, as in transformers
        rope_theta=read_theta(raw),
        layer_kinds=tuple(ATTENTION if i in indices else MAMBA for i in range(count)),
        d_feed_forward=feed_forward,
        use_feed_forward_bias=read_entry(
            BambaConfig, raw, "use_feed_forward_bias", "mlp_bias", False
        ),
    ), "hf"


def write_bamba(config: BambaConfig, *, dtype: str) -> dict[str, Any]:
    """Return the `config.json` of a model.

    Args:
      config: the model.
      dtype: dtype of the stored weights.
    """
    kinds = enumerate(config.layer_kinds)
    return {
        **write_around(config, kind="BambaForCausalLM", dtype=dtype),
        **write_heads(config),
        "model_type": "bamba",
        "attn_layer_indices": [i for i, kind in kinds if kind == ATTENTION],
        "intermediate_size": config.d_feed_forward,
        "mlp_bias": config.use_feed_forward_bias,
        "partial_rotary_factor": 0.5,
    }


def why_no_bamba(config: BambaConfig | None) -> str | None:
    """Return what a model is that transformers does not read; None if it does."""
    if config is None:
        return None
    if not config.d_feed_forward:
        return "has no feed-forward layers"
    if config.rope_width != config.query_width // 2:
        return "rotates another part of its heads than a half"
    scales = config.embedding_multiplier, config.residual_multiplier
    scale = config.attention_scale or config.query_width**-0.5
    if {*scales, config.logits_divisor, scale * config.query_width**0.5} != {1.0}:
        return "scales its embeddings, blocks, scores or logits"
    return why_not_theirs(config)
