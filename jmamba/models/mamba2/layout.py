"""Configurations of Mamba-2 checkpoints: two dialects in, one out."""

import math
import reprlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from jmamba.files.errors import CheckpointError
from jmamba.models.dialects import (
    HARMLESS,
    IDS,
    NOTES,
    check_entries,
    layer_kind,
    listed_id,
    read_entry,
    read_expand,
    read_ids,
    read_size,
    read_ssm,
    tokens_used,
)
from jmamba.models.mamba2.config import Mamba2Config

_size = partial(read_size, Mamba2Config)
_entry = partial(read_entry, Mamba2Config)

_OWN = {"is_normed": True, "norm_before_gate": False, "skip_per_channel": False}
"""What only the original dialect can ask for, and what transformers computes."""

_READ = frozenset(
    "model_type vocab_size hidden_size num_hidden_layers num_heads head_dim state_size"
    " n_groups conv_kernel use_bias use_conv_bias layer_norm_epsilon residual_in_fp32"
    " tie_word_embeddings time_step_limit time_step_min time_step_max time_step_floor"
    " unpadded_vocab_size".split()
) | {*IDS, *_OWN}
_IDLE = frozenset("chunk_size time_step_rank intermediate_size".split())
_ORIGINAL = NOTES | frozenset(
    "d_model d_intermediate n_layer vocab_size ssm_cfg residual_in_fp32 fused_add_norm"
    " pad_vocab_size_multiple tie_embeddings use_cache initializer_cfg"
    " unpadded_vocab_size".split()
)
_ORIGINAL_SSM = frozenset(
    "layer d_state d_conv expand headdim ngroups d_ssm D_has_hdim rmsnorm"
    " norm_before_gate bias conv_bias dt_min dt_max dt_init_floor dt_limit"
    " A_init_range conv_init chunk_size use_mem_eff_path".split()
)
_NEOX_VOCAB = (50277, 50288)  # rows used and rows padded of the released models


def owns_mamba2(raw: Mapping[str, Any]) -> bool:
    """Say whether a config.json is a Mamba-2 language model's.

    The original state-spaces files name no type, but their layers.
    """
    if raw.get("model_type") is not None:
        return raw["model_type"] == "mamba2"
    has_attention = bool(raw.get("attn_layer_idx"))
    return "d_model" in raw and layer_kind(raw) == "Mamba2" and not has_attention


def read_mamba2(raw: Mapping[str, Any]) -> tuple[Mamba2Config, str]:
    """Return the configuration and the layout of a config.json of either dialect.

    Raises:
      ValueError: a size is missing or does not fit the others, or it holds a key that
        is not known to leave the maths alone.
    """
    if raw.get("model_type") is None:
        return Mamba2Config(**read_original(raw)), "original"
    return _from_hf(raw), "hf"


def _from_hf(raw: Mapping) -> Mamba2Config:
    check_entries(raw, HARMLESS | _READ | _IDLE)
    d_model = _size(raw, "d_model", "hidden_size")
    heads = _size(raw, "d_inner", "num_heads", default=128)
    width = _size(raw, "head_width", "head_dim", default=64)
    if read_expand(raw, d_model) != heads * width:
        raise CheckpointError(
            f"hidden_size {d_model} times expand {raw.get('expand', 2)} must be "
            f"num_heads {heads} times head_dim {width}."
        )
    defaults = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    return Mamba2Config(
        vocab_size=_size(raw, "vocab_size", "vocab_size"),
        d_model=d_model,
        num_layers=_size(raw, "num_layers", "num_hidden_layers"),
        d_state=_size(raw, "d_state", "state_size", default=128),
        d_conv=_size(raw, "d_conv", "conv_kernel", default=4),
        d_inner=heads * width,
        head_width=width,
        num_groups=_size(raw, "num_groups", "n_groups", default=8),
        use_bias=_entry(raw, "use_bias", "use_bias", False),
        use_conv_bias=_entry(raw, "use_conv_bias", "use_conv_bias", True),
        norm_eps=_entry(raw, "norm_eps", "layer_norm_epsilon", 1e-5),
        residual_in_fp32=_entry(raw, "residual_in_fp32", "residual_in_fp32", True),
        tie_embeddings=_entry(raw, "tie_embeddings", "tie_word_embeddings", False),
        **read_ids(raw, defaults),
        unpadded_vocab_size=tokens_used(
            Mamba2Config, raw, raw["vocab_size"], _NEOX_VOCAB
        ),
        dt_limit=_read_limit(raw, "time_step_limit"),
        dt_min=_entry(raw, "dt_min", "time_step_min", 1e-3),
        dt_max=_entry(raw, "dt_max", "time_step_max", 1e-1),
        dt_init_floor=_entry(raw, "dt_init_floor", "time_step_floor", 1e-4),
        **{name: _entry(raw, name, name, usual) for name, usual in _OWN.items()},
    )


def read_original(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a configuration that an original config.json says.

    Raises:
      CheckpointError: a size is missing, or something is unknown or not computed.
    """
    check_entries(raw, _ORIGINAL | set(IDS))
    ssm = read_ssm(raw)
    check_entries(ssm, _ORIGINAL_SSM, "ssm_cfg")
    rows = _size(raw, "vocab_size", "vocab_size")
    multiple = _size(raw, "vocab_size", "pad_vocab_size_multiple", default=16)
    padded = math.ceil(rows / multiple) * multiple
    d_model = _size(raw, "d_model", "d_model")
    d_inner = read_expand(ssm, d_model)
    if ssm.get("d_ssm") not in (None, d_inner):
        raise CheckpointError(
            f"d_ssm = {reprlib.repr(ssm['d_ssm'])}: layers of which a part is no "
            "recurrence are not computed by jmamba."
        )
    released = rows in _NEOX_VOCAB  # their tokenizer ends texts by 0
    return dict(
        vocab_size=padded,
        unpadded_vocab_size=tokens_used(Mamba2Config, raw, padded, _NEOX_VOCAB, rows),
        d_model=d_model,
        num_layers=_size(raw, "num_layers", "n_layer"),
        d_state=_size(ssm, "d_state", "d_state", default=128),
        d_conv=_size(ssm, "d_conv", "d_conv", default=4),
        d_inner=d_inner,
        head_width=_size(ssm, "head_width", "headdim", default=64),
        num_groups=_size(ssm, "num_groups", "ngroups", default=1),
        use_bias=_entry(ssm, "use_bias", "bias", False),
        use_conv_bias=_entry(ssm, "use_conv_bias", "conv_bias", True),
        residual_in_fp32=_entry(raw, "residual_in_fp32", "residual_in_fp32", True),
        tie_embeddings=_entry(raw, "tie_embeddings", "tie_embeddings", True),
        **read_ids(raw, dict.fromkeys(IDS, 0 if released else None)),
        is_normed=_entry(ssm, "is_normed", "rmsnorm", True),
        norm_before_gate=_entry(ssm, "norm_before_gate", "norm_before_gate", False),
        skip_per_channel=_entry(ssm, "skip_per_channel", "D_has_hdim", False),
        dt_limit=_read_limit(ssm, "dt_limit"),
        dt_min=_entry(ssm, "dt_min", "dt_min", 1e-3),
        dt_max=_entry(ssm, "dt_max", "dt_max", 1e-1),
        dt_init_floor=_entry(ssm, "dt_init_floor", "dt_init_floor", 1e-4),
    )


def _read_limit(raw: Mapping, name: str) -> tuple[float, float]:
    """Return the least and the greatest step size."""
    found = _entry(raw, "dt_limit", name, (0.0, math.inf))
    if len(found) != 2:
        raise CheckpointError(
            f"{name} must be the least and the greatest step size, but is "
            f"{reprlib.repr(found)}."
        )
    return float(found[0]), float(found[1])


def write_mamba2(config: Mamba2Config, *, dtype: str) -> dict[str, Any]:
    """Return the `config.json` of a model, in the dialect that transformers reads.

    Args:
      config: the model.
      dtype: dtype of the stored weights.
    """
    expand = config.d_inner / config.d_model
    raw = {
        "architectures": ["Mamba2ForCausalLM"],
        "model_type": "mamba2",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "num_heads": config.num_heads,
        "head_dim": config.head_width,
        "expand": int(expand) if expand.is_integer() else expand,
        "state_size": config.d_state,
        "n_groups": config.num_groups,
        "conv_kernel": config.d_conv,
        "use_bias": config.use_bias,
        "use_conv_bias": config.use_conv_bias,
        "hidden_act": "silu",
        "layer_norm_epsilon": config.norm_eps,
        "residual_in_fp32": config.residual_in_fp32,
        "tie_word_embeddings": config.tie_embeddings,
        **{name: listed_id(getattr(config, name)) for name in IDS},
        "time_step_limit": list(config.dt_limit),
        "time_step_min": config.dt_min,
        "time_step_max": config.dt_max,
        "time_step_floor": config.dt_init_floor,
        "dtype": dtype,
    }
    if config.unpadded_vocab_size is not None:
        raw["unpadded_vocab_size"] = config.unpadded_vocab_size
    own = {name: getattr(config, name) for name in _OWN}
    return raw | {k: v for k, v in own.items() if v != _OWN[k]}


def why_only_ours(config: Mamba2Config | None) -> str | None:
    """Return what a model is that transformers does not read; None if it does."""
    if config is None:
        return None
    if not config.is_normed:
        return "has no norm behind its gate"
    if config.norm_before_gate:
        return "normalises before its gate"
    if config.skip_per_channel:
        return "has a skip weight for each channel"
    if config.d_inner % config.d_model:
        return f"has {config.d_inner} channels, no multiple of {config.d_model}"
    return None
