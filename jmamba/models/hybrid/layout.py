"""Entries that transformers' files of hybrids share, read and written."""

import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from jmamba.files.errors import CheckpointError
from jmamba.layers.fields import check_field
from jmamba.models.dialects import (
    HARMLESS,
    IDS,
    check_entries,
    listed_id,
    read_entry,
    read_expand,
    read_ids,
    read_size,
)
from jmamba.models.hybrid.config import ATTENTION, MAMBA, HybridConfig

KINDS = {
    "mamba": MAMBA,
    "linear_attention": MAMBA,
    "attention": ATTENTION,
    "full_attention": ATTENTION,
}
"""What files call kinds of layers -> what they are called here."""

AROUND = frozenset(
    "model_type vocab_size hidden_size num_hidden_layers rms_norm_eps hidden_act"
    " tie_word_embeddings num_attention_heads num_key_value_heads attention_bias"
    " rope_parameters rope_theta"
    " rope_scaling partial_rotary_factor unpadded_vocab_size residual_in_fp32"
    # what only trains, limits or speeds up
    " max_position_embeddings attention_dropout num_logits_to_keep"
    " z_loss_coefficient".split()
) | {*IDS}
"""Entries of any hybrid that are read here, or do not matter."""

SHARED = AROUND | frozenset(
    "mamba_n_heads mamba_d_head mamba_n_groups mamba_d_state mamba_d_conv mamba_expand"
    " mamba_conv_bias mamba_proj_bias time_step_limit mamba_chunk_size".split()
)
"""Those, and entries of hybrids of Mamba."""


def read_shared(
    kind: type,
    raw: Mapping,
    own: Sequence[str],
    *,
    ids: Mapping[str, int | None],
    norm_eps: float = 1e-5,
    known: frozenset[str] = SHARED,
) -> dict[str, Any]:
    """Return the fields of a configuration that hybrids share.

    Args:
      kind: class of the configuration.
      raw: what the file says.
      own: further entries that the kind of model has.
      ids: defaults of the ids of texts.
      norm_eps: default of the norms' epsilon.
      known: entries that it may have beside its own.

    Raises:
      CheckpointError: an entry is unknown, or sizes do not fit each other.
    """
    check_entries(raw, HARMLESS | known | {*own})

    def size(field, name, default=None):
        return read_size(kind, raw, field, name, default=default)

    def entry(field, name, default):
        return read_entry(kind, raw, field, name, default)

    return {
        "vocab_size": size("vocab_size", "vocab_size"),
        "d_model": size("d_model", "hidden_size"),
        "num_layers": size("num_layers", "num_hidden_layers"),
        "norm_eps": entry("norm_eps", "rms_norm_eps", norm_eps),
        "tie_embeddings": entry("tie_embeddings", "tie_word_embeddings", False),
        "residual_in_fp32": entry("residual_in_fp32", "residual_in_fp32", False),
        "unpadded_vocab_size": raw.get("unpadded_vocab_size"),
        **read_ids(raw, ids),
        "num_query_heads": size("num_query_heads", "num_attention_heads", 32),
        "use_attention_bias": entry("use_attention_bias", "attention_bias", False),
    }


def read_heads(kind: type, raw: Mapping, d_inner: int | None = None) -> dict[str, Any]:
    """Return the fields of the Mamba-2 mixers.

    Args:
      kind: class of the configuration.
      raw: what the file says.
      d_inner: channels; None for `mamba_expand` times the width.

    Raises:
      CheckpointError: heads do not make up the channels.
    """

    def size(field, name, default):
        return read_size(kind, raw, field, name, default=default)

    width = raw.get("mamba_expand", 2)
    if d_inner is None:
        d_inner = read_expand({"expand": width}, raw["hidden_size"])
    heads = size("d_inner", "mamba_n_heads", 128)
    head_width = raw.get("mamba_d_head") or "auto"
    if head_width == "auto":
        head_width = d_inner // heads
    if not isinstance(head_width, int) or heads * head_width != d_inner:
        raise CheckpointError(
            f"mamba_n_heads {heads} times mamba_d_head {reprlib.repr(head_width)} must "
            f"be the {d_inner} channels of a mixer."
        )
    return {
        "d_inner": d_inner,
        "head_width": head_width,
        "d_state": size("d_state", "mamba_d_state", 256),
        "d_conv": size("d_conv", "mamba_d_conv", 4),
        "num_groups": size("num_groups", "mamba_n_groups", 1),
        "use_bias": read_entry(kind, raw, "use_bias", "mamba_proj_bias", False),
        "use_conv_bias": read_entry(
            kind, raw, "use_conv_bias", "mamba_conv_bias", True
        ),
        "dt_limit": _read_limit(kind, raw),
    }


def _read_limit(kind: type, raw: Mapping) -> tuple[float, ...]:
    found = raw.get("time_step_limit")
    found = (0.0, math.inf) if found is None else found
    return tuple(check_field(kind, "dt_limit", found, "time_step_limit"))


def read_kv_heads(kind: type, raw: Mapping, default: int | None) -> int:
    """Return the groups of heads that share keys; null means one for each head."""
    name = "num_key_value_heads"
    if name in raw and raw[name] is None:
        return 0
    return read_size(kind, raw, "num_kv_heads", name, default=default or 0)


def read_theta(raw: Mapping) -> float:
    """Return the base of the rotations, or raise unless they are the plain ones.

    Raises:
      CheckpointError: they are stretched.
    """
    found = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = found.get("rope_type", found.get("type", "default"))
    if kind != "default":
        raise CheckpointError(
            f"rope_parameters = {reprlib.repr(found)}: only rotations of rope_type "
            "'default' are computed by jmamba."
        )
    return float(found.get("rope_theta", raw.get("rope_theta", 10000.0)))


def read_kinds(
    raw: Mapping, default: Sequence[str], names: Mapping[str, str] = KINDS
) -> tuple[str, ...]:
    """Return the kinds of all layers.

    Args:
      raw: what the file says.
      default: names of the kinds where it says nothing.
      names: what files call kinds -> what they are called here.

    Raises:
      CheckpointError: one is unknown.
    """
    found = raw.get("layer_types") or raw.get("layers_block_type") or default
    is_list = isinstance(found, list | tuple)
    unknown = [kind for kind in found if kind not in names] if is_list else found
    if unknown:
        raise CheckpointError(
            f"layer_types holds {reprlib.repr(unknown)}; jmamba knows "
            f"{', '.join(map(repr, names))}."
        )
    return tuple(names[kind] for kind in found)


_DELTA = {
    "num_value_heads": "linear_num_value_heads",
    "num_key_heads": "linear_num_key_heads",
    "key_width": "linear_key_head_dim",
    "value_width": "linear_value_head_dim",
    "d_conv": "linear_conv_kernel_dim",
}
"""Field -> entry of the sizes of gated delta nets."""


def read_delta_heads(kind: type, raw: Mapping, **defaults: int) -> dict[str, Any]:
    """Return the fields of gated delta nets.

    Args:
      kind: class of the configuration.
      raw: what the file says.
      **defaults: of the fields, where the file says nothing.
    """
    return {
        field: read_size(kind, raw, field, name, default=defaults.get(field, 0))
        for field, name in _DELTA.items()
    }


def write_delta_heads(config: Any) -> dict[str, Any]:
    """Return the entries of gated delta nets."""
    return {name: getattr(config, field) for field, name in _DELTA.items()}


def write_around(config: Any, *, kind: str, dtype: str) -> dict[str, Any]:
    """Return the entries of a `config.json` that hybrids share but for recurrences.

    Args:
      config: the model.
      kind: its class in transformers.
      dtype: dtype of the stored weights.
    """
    raw = {
        "architectures": [kind],
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        **{name: listed_id(getattr(config, name)) for name in IDS},
        "num_attention_heads": config.num_query_heads,
        "num_key_value_heads": config.num_kv_heads,
        "dtype": dtype,
    }
    if config.rope_width:
        raw["rope_theta"] = config.rope_theta
    if config.use_attention_bias:
        raw["attention_bias"] = True
    if config.residual_in_fp32:
        raw["residual_in_fp32"] = True
    if config.unpadded_vocab_size is not None:
        raw["unpadded_vocab_size"] = config.unpadded_vocab_size
    return raw


def write_heads(config: HybridConfig) -> dict[str, Any]:
    """Return the entries of the Mamba-2 mixers."""
    expand = config.d_inner / config.d_model
    return {
        "mamba_n_heads": config.num_heads,
        "mamba_d_head": config.head_width,
        "mamba_n_groups": config.num_groups,
        "mamba_d_state": config.d_state,
        "mamba_d_conv": config.d_conv,
        "mamba_expand": int(expand) if expand.is_integer() else expand,
        "mamba_conv_bias": config.use_conv_bias,
        "mamba_proj_bias": config.use_bias,
        "time_step_limit": list(config.dt_limit),
    }


def why_not_theirs(config: HybridConfig) -> str | None:
    """Return what a hybrid is that transformers does not read; None if it does."""
    if not config.is_normed or config.norm_before_gate:
        return "has other norms beside its gates"
    if config.skip_per_channel:
        return "has a skip weight for each channel"
    if config.d_inner % config.d_model:
        return f"has {config.d_inner} channels, no multiple of {config.d_model}"
    if config.query_width * config.num_query_heads != config.d_model:
        return f"has heads of {config.query_width} that do not make up its width"
    return None
