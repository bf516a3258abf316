"""Configurations of Falcon-H1 checkpoints, read and written."""

from collections.abc import Mapping
from typing import Any

from jmamba.files.errors import CheckpointError
from jmamba.models.dialects import read_entry, read_size
from jmamba.models.falcon_h1.config import FalconH1Config
from jmamba.models.hybrid.layout import (
    read_heads,
    read_kv_heads,
    read_shared,
    read_theta,
    write_around,
    write_heads,
)

_NUMBERS = {
    "embedding_multiplier": ("embedding_multiplier", 1.0),
    "head_multiplier": ("lm_head_multiplier", 1.0),
    "feed_forward_multipliers": ("mlp_multipliers", (1.0, 1.0)),
    "key_multiplier": ("key_multiplier", 1.0),
    "attention_in_multiplier": ("attention_in_multiplier", 1.0),
    "attention_out_multiplier": ("attention_out_multiplier", 1.0),
    "ssm_in_multiplier": ("ssm_in_multiplier", 1.0),
    "ssm_out_multiplier": ("ssm_out_multiplier", 1.0),
    "ssm_multipliers": ("ssm_multipliers", (1.0,) * 5),
}
"""Field -> entry, and its default."""

_OWN = (
    *(name for name, _ in _NUMBERS.values()),
    *"mamba_d_ssm mamba_rms_norm mamba_norm_before_gate projectors_bias".split(),
    *"mlp_bias intermediate_size head_dim mamba_use_mlp".split(),
)
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def read_falcon_h1(raw: Mapping[str, Any]) -> tuple[FalconH1Config, str]:
    """Return the configuration and the layout of a config.json.

    Raises:
      CheckpointError: it says something that is not computed.
    """
    kind = FalconH1Config
    fields = read_shared(kind, raw, _OWN, ids=_IDS)
    biases = raw.get("mamba_proj_bias", False), raw.get("projectors_bias", False)
    if biases[0] != biases[1]:
        raise CheckpointError(
            f"mamba_proj_bias = {biases[0]!r} and projectors_bias = {biases[1]!r}: "
            "biases of only one of Mamba-2's projections are not computed by jmamba."
        )
    own = read_size(kind, raw, "d_inner", "mamba_d_ssm", default=1024)
    if "mamba_d_ssm" in raw and raw["mamba_d_ssm"] is None:
        own = None
    width = raw.get("head_dim") or fields["d_model"] // fields["num_query_heads"]
    entries = {
        field: _as_floats(read_entry(kind, raw, field, name, default))
        for field, (name, default) in _NUMBERS.items()
        if raw.get(name) is not None
    }
    return kind(
        **fields,
        **read_heads(kind, raw, own),
        **entries,
        num_kv_heads=read_kv_heads(kind, raw, 8),
        query_width=width,
        rope_width=width,
        rope_theta=read_theta(raw),
        is_normed=read_entry(kind, raw, "is_normed", "mamba_rms_norm", False),
        norm_before_gate=read_entry(
            kind, raw, "norm_before_gate", "mamba_norm_before_gate", True
        ),
        d_feed_forward=read_size(
            kind, raw, "d_feed_forward", "intermediate_size", default=14336
        ),
        use_feed_forward_bias=read_entry(
            kind, raw, "use_feed_forward_bias", "mlp_bias", False
        ),
    ), "hf"


def _as_floats(value: Any) -> Any:
    several = isinstance(value, list | tuple)
    return tuple(map(float, value)) if several else float(value)


def write_falcon_h1(config: FalconH1Config, *, dtype: str) -> dict[str, Any]:
    """Return the `config.json` of a model.

    Args:
      config: the model.
      dtype: dtype of the stored weights.
    """

    def listed(value):
        return list(value) if isinstance(value, tuple) else value

    return {
        **write_around(config, kind="FalconH1ForCausalLM", dtype=dtype),
        **write_heads(config),
        "model_type": "falcon_h1",
        "mamba_d_ssm": config.d_inner,
        "mamba_expand": 2,  # not read beside mamba_d_ssm
        "mamba_rms_norm": config.is_normed,
        "mamba_norm_before_gate": config.norm_before_gate,
        "projectors_bias": config.use_bias,
        "head_dim": config.query_width,
        "intermediate_size": config.d_feed_forward,
        "mlp_bias": config.use_feed_forward_bias,
        **{
            name: listed(getattr(config, field))
            for field, (name, _) in _NUMBERS.items()
        },
    }


def why_no_falcon_h1(config: FalconH1Config | None) -> str | None:
    """Return what a model is that transformers does not read; None if it does."""
    if config is None:
        return None
    if not config.d_feed_forward:
        return "has no feed-forward layers"
    if config.rope_width != config.query_width:
        return "rotates a part of its heads"
    if config.skip_per_channel:
        return "has a skip weight for each channel"
    if config.attention_scale or {
        config.residual_multiplier,
        config.logits_divisor,
    } != {1.0}:
        return "scales its blocks, scores or logits otherwise"
    return None
