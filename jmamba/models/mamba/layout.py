"""Configurations of checkpoints: three dialects in, one out."""

import math
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
from jmamba.models.mamba.config import MambaConfig

MODEL_TYPES = {"mamba": "hf", "falcon_mamba": "falcon"}
"""Model type -> layout."""


_READ = frozenset(
    "model_type vocab_size hidden_size num_hidden_layers state_size conv_kernel"
    " intermediate_size time_step_rank use_bias use_conv_bias layer_norm_epsilon"
    " residual_in_fp32 tie_word_embeddings time_step_min time_step_max"
    " time_step_floor mixer_rms_eps definite definite_threshold"
    " equal_magnitudes unpadded_vocab_size".split()
) | set(IDS)
_size = partial(read_size, MambaConfig)
_entry = partial(read_entry, MambaConfig)

_ORIGINAL = NOTES | frozenset(
    "d_model n_layer vocab_size ssm_cfg residual_in_fp32 fused_add_norm"
    " pad_vocab_size_multiple tie_embeddings use_cache initializer_cfg"
    " unpadded_vocab_size".split()
)
_ORIGINAL_SSM = frozenset(
    "layer d_state d_conv expand dt_rank dt_min dt_max dt_init dt_scale dt_init_floor"
    " conv_bias bias use_fast_path".split()
)
_NEOX_VOCAB = (50277, 50280)  # rows used and rows padded of the released models


def owns_config(raw: Mapping[str, Any]) -> bool:
    """Say whether a config.json is a Mamba-1 or Falcon-Mamba language model's.

    The original state-spaces files name no type but a d_model, and layers of Mamba-2.
    """
    model_type = raw.get("model_type")
    is_original = model_type is None and "d_model" in raw
    return model_type in MODEL_TYPES or (is_original and layer_kind(raw) != "Mamba2")


def read_config(raw: Mapping[str, Any]) -> tuple[MambaConfig, str]:
    """Return the configuration and the layout of a config.json, whatever its dialect.

    In the -hf and Falcon dialects hidden_size, num_hidden_layers, intermediate_size and
    time_step_rank win over d_model, n_layer, d_inner and expand, which released files
    carry stale. In the original dialect the vocabulary is padded to a multiple.

    Raises:
      ValueError: a size is missing, or it holds a key that is not known to leave the
        maths alone.
    """
    if raw.get("model_type") is None:
        return _from_original(raw), "original"
    return _from_hf(raw), MODEL_TYPES[raw["model_type"]]


def layout_to_write(config: MambaConfig) -> str:
    """Return the layout that transformers reads a model in."""
    return "falcon" if config.is_falcon else "hf"


def _from_hf(raw: Mapping) -> MambaConfig:
    falcon = raw["model_type"] == "falcon_mamba"
    check_entries(raw, (HARMLESS | _READ) - (set() if falcon else {"mixer_rms_eps"}))
    d_model = _size(raw, "d_model", "hidden_size", "d_model")
    rank = raw.get("time_step_rank", "auto")
    return MambaConfig(
        vocab_size=_size(raw, "vocab_size", "vocab_size"),
        d_model=d_model,
        num_layers=_size(raw, "num_layers", "num_hidden_layers", "n_layer"),
        d_state=_size(raw, "d_state", "state_size", default=16),
        d_conv=_size(raw, "d_conv", "conv_kernel", default=4),
        d_inner=_size(raw, "d_inner", "intermediate_size", default=0)
        or read_expand(raw, d_model),
        dt_rank=0 if rank == "auto" else _size(raw, "dt_rank", "time_step_rank"),
        use_bias=_entry(raw, "use_bias", "use_bias", False),
        use_conv_bias=_entry(raw, "use_conv_bias", "use_conv_bias", True),
        norm_eps=_entry(raw, "norm_eps", "layer_norm_epsilon", 1e-5),
        mixer_rms_eps=_entry(raw, "mixer_rms_eps", "mixer_rms_eps", 1e-6)
        if falcon
        else None,
        residual_in_fp32=_entry(raw, "residual_in_fp32", "residual_in_fp32", True),
        tie_embeddings=_entry(raw, "tie_embeddings", "tie_word_embeddings", True),
        **read_ids(raw, dict.fromkeys(IDS, 0)),  # transformers' own where there is none
        unpadded_vocab_size=tokens_used(
            MambaConfig, raw, raw["vocab_size"], _NEOX_VOCAB
        ),
        dt_min=_entry(raw, "dt_min", "time_step_min", 1e-3),
        dt_max=_entry(raw, "dt_max", "time_step_max", 1e-1),
        dt_init_floor=_entry(raw, "dt_init_floor", "time_step_floor", 1e-4),
        definite=_entry(raw, "definite", "definite", "free"),
        definite_threshold=_entry(
            raw, "definite_threshold", "definite_threshold", None
        ),
        equal_magnitudes=_entry(raw, "equal_magnitudes", "equal_magnitudes", False),
    )


def _from_original(raw: Mapping) -> MambaConfig:
    check_entries(raw, _ORIGINAL | set(IDS))
    ssm = read_ssm(raw)
    check_entries(ssm, _ORIGINAL_SSM, "ssm_cfg")
    if ssm.get("layer", "Mamba1") != "Mamba1":
        raise CheckpointError(
            f"the layers are {ssm['layer']!r}, but jmamba reads Mamba-1, Mamba-2 and "
            "Falcon-Mamba."
        )
    rows = _size(raw, "vocab_size", "vocab_size")
    multiple = _size(raw, "vocab_size", "pad_vocab_size_multiple", default=8)
    padded = math.ceil(rows / multiple) * multiple
    d_model, rank = _size(raw, "d_model", "d_model"), ssm.get("dt_rank", "auto")
    neox = (
        0 if rows in _NEOX_VOCAB else None
    )  # the released models' tokenizer ends by 0
    return MambaConfig(
        vocab_size=padded,
        unpadded_vocab_size=tokens_used(MambaConfig, raw, padded, _NEOX_VOCAB, rows),
        d_model=d_model,
        num_layers=_size(raw, "num_layers", "n_layer"),
        d_state=_size(ssm, "d_state", "d_state", default=16),
        d_conv=_size(ssm, "d_conv", "d_conv", default=4),
        d_inner=read_expand(ssm, d_model),
        dt_rank=0 if rank == "auto" else _size(ssm, "dt_rank", "dt_rank"),
        use_bias=_entry(ssm, "use_bias", "bias", False),
        use_conv_bias=_entry(ssm, "use_conv_bias", "conv_bias", True),
        residual_in_fp32=_entry(raw, "residual_in_fp32", "residual_in_fp32", True),
        tie_embeddings=_entry(raw, "tie_embeddings", "tie_embeddings", True),
        **read_ids(raw, dict.fromkeys(IDS, neox)),
        dt_min=_entry(ssm, "dt_min", "dt_min", 1e-3),
        dt_max=_entry(ssm, "dt_max", "dt_max", 1e-1),
        dt_init_floor=_entry(ssm, "dt_init_floor", "dt_init_floor", 1e-4),
    )


def write_config(config: MambaConfig, *, dtype: str) -> dict[str, Any]:
    """Return the `config.json` of a model, in the dialect that transformers reads.

    Args:
      config: the model.
      dtype: dtype of the stored weights.
    """
    kind = "FalconMamba" if config.is_falcon else "Mamba"
    d_inner = config.d_inner or 0
    raw = {
        "architectures": [f"{kind}ForCausalLM"],
        "model_type": "falcon_mamba" if config.is_falcon else "mamba",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "intermediate_size": d_inner,
        "expand": max(1, d_inner // config.d_model),  # intermediate_size wins
        "state_size": config.d_state,
        "conv_kernel": config.d_conv,
        "time_step_rank": config.dt_rank,
        "use_bias": config.use_bias,
        "use_conv_bias": config.use_conv_bias,
        "hidden_act": "silu",
        "layer_norm_epsilon": config.norm_eps,
        "residual_in_fp32": config.residual_in_fp32,
        "tie_word_embeddings": config.tie_embeddings,
        **{name: listed_id(getattr(config, name)) for name in IDS},
        "time_step_min": config.dt_min,
        "time_step_max": config.dt_max,
        "time_step_floor": config.dt_init_floor,
        "dtype": dtype,
    }
    if config.is_falcon:
        raw["mixer_rms_eps"] = config.mixer_rms_eps
    if config.unpadded_vocab_size is not None:
        raw["unpadded_vocab_size"] = config.unpadded_vocab_size
    if config.definite != "free":  # jmamba's own; transformers refuses the weights
        raw["definite"] = config.definite
        raw["definite_threshold"] = config.definite_threshold
        raw["equal_magnitudes"] = config.equal_magnitudes
    return raw
