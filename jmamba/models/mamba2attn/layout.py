"""Configurations of original hybrids, read and written."""

import reprlib
from collections.abc import Mapping
from typing import Any

from jmamba.files.errors import CheckpointError
from jmamba.models.dialects import (
    IDS,
    check_entries,
    layer_kind,
    listed_id,
    read_entry,
    read_size,
)
from jmamba.models.hybrid.config import ATTENTION, MAMBA
from jmamba.models.mamba2.layout import read_original
from jmamba.models.mamba2attn.config import Mamba2AttnConfig

_OWN = ("model_type", "attn_layer_idx", "attn_cfg")
_ATTENTION = frozenset(
    "num_heads num_heads_kv head_dim d_conv rotary_emb_dim rotary_emb_base"
    " rotary_emb_interleaved softmax_scale causal qkv_proj_bias out_proj_bias"
    " mlp_dim".split()
)
_ONLY = {"causal": True, "rotary_emb_interleaved": False, "mlp_dim": 0}


def owns_mamba2attn(raw: Mapping[str, Any]) -> bool:
    """Say whether a config.json is an original hybrid's, which names no type."""
    is_original = raw.get("model_type") in (None, "mamba2attn") and "d_model" in raw
    is_mamba2 = layer_kind(raw) == "Mamba2"
    return is_original and is_mamba2 and bool(raw.get("attn_layer_idx"))


def read_mamba2attn(raw: Mapping[str, Any]) -> tuple[Mamba2AttnConfig, str]:
    """Return the configuration and the layout of a config.json.

    Raises:
      CheckpointError: layers are none of the model's, or something is unknown or not
        computed.
    """
    kind = Mamba2AttnConfig
    fields = read_original({k: v for k, v in raw.items() if k not in _OWN})
    count, indices = fields["num_layers"], raw["attn_layer_idx"]
    if not isinstance(indices, list) or not {*indices} <= {*range(count)}:
        raise CheckpointError(
            f"attn_layer_idx must be a list of layers from 0 to {count - 1}, but is "
            f"{reprlib.repr(indices)}."
        )
    attention = raw.get("attn_cfg") or {}
    if not isinstance(attention, Mapping):
        raise CheckpointError(
            f"attn_cfg must be an object, but is {reprlib.repr(attention)}."
        )
    check_entries(attention, _ATTENTION, "attn_cfg")
    biases = {attention.get(f"{name}_proj_bias", True) for name in ("qkv", "out")}
    wrong = [f"{k} = {attention[k]!r}" for k, v in _ONLY.items()
             if attention.get(k, v) != v]  # fmt: skip
    wrong += ["biases of some projections only"] if len(biases) > 1 else []
    if not attention.get("causal", False):
        wrong.append("attention that is not causal")
    if wrong:
        raise CheckpointError(
            f"attn_cfg asks for something jmamba does not compute: {'; '.join(wrong)}."
        )
    heads = read_size(kind, attention, "num_query_heads", "num_heads")
    return kind(
        **fields,
        layer_kinds=tuple(ATTENTION if i in indices else MAMBA for i in range(count)),
        num_query_heads=heads,
        num_kv_heads=attention.get("num_heads_kv") or heads,
        query_width=attention.get("head_dim") or 0,
        rope_width=read_entry(kind, attention, "rope_width", "rotary_emb_dim", 0),
        rope_theta=float(
            read_entry(kind, attention, "rope_theta", "rotary_emb_base", 1e4)
        ),
        attention_scale=read_entry(
            kind, attention, "attention_scale", "softmax_scale", None
        ),
        attention_window=read_size(kind, attention, "attention_window", "d_conv"),
        use_attention_bias=bool(biases.pop()),
    ), "original"


def write_mamba2attn(config: Mamba2AttnConfig, *, dtype: str) -> dict[str, Any]:
    """Return the `config.json` of a model, as the original code reads it.

    Args:
      config: the model.
      dtype: dtype of the stored weights.
    """
    expand = config.d_inner / config.d_model
    ssm = {
        "layer": "Mamba2",
        "d_state": config.d_state,
        "d_conv": config.d_conv,
        "expand": int(expand) if expand.is_integer() else expand,
        "headdim": config.head_width,
        "ngroups": config.num_groups,
        "D_has_hdim": config.skip_per_channel,
        "rmsnorm": config.is_normed,
        "norm_before_gate": config.norm_before_gate,
        "bias": config.use_bias,
        "conv_bias": config.use_conv_bias,
        "dt_limit": list(config.dt_limit),
    }
    attention = {
        "causal": True,
        "d_conv": config.attention_window,
        "head_dim": config.query_width,
        "num_heads": config.num_query_heads,
        "num_heads_kv": config.num_kv_heads,
        "qkv_proj_bias": config.use_attention_bias,
        "out_proj_bias": config.use_attention_bias,
        "rotary_emb_dim": config.rope_width,
        "rotary_emb_base": config.rope_theta,
        "softmax_scale": config.attention_scale,
    }
    kinds = enumerate(config.layer_kinds)
    return {
        "d_model": config.d_model,
        "d_intermediate": 0,
        "n_layer": config.num_layers,
        "vocab_size": config.vocab_size,
        "unpadded_vocab_size": config.unpadded_vocab_size,
        "pad_vocab_size_multiple": 1,
        "ssm_cfg": ssm,
        "attn_layer_idx": [i for i, kind in kinds if kind == ATTENTION],
        "attn_cfg": attention,
        "rms_norm": True,
        "residual_in_fp32": config.residual_in_fp32,
        "fused_add_norm": True,
        "tie_embeddings": config.tie_embeddings,
        **{name: listed_id(getattr(config, name)) for name in IDS},
        "dtype": dtype,
    }
