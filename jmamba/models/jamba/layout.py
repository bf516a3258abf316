"""Configurations of Jamba checkpoints, read and written."""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jmamba.files.errors import CheckpointError
from jmamba.models.dialects import read_entry, read_expand, read_size
from jmamba.models.hybrid.config import ATTENTION, EXPERTS, MAMBA, mixer_kind
from jmamba.models.hybrid.layout import read_kv_heads, read_shared, write_around
from jmamba.models.jamba.config import JambaConfig

_OWN = (
    "intermediate_size attn_layer_period attn_layer_offset num_experts"
    " num_local_experts num_experts_per_tok expert_layer_period expert_layer_offset"
    " mamba_dt_rank"
    # how it is trained and run
    " output_router_logits router_aux_loss_coef router_z_loss_coef use_mamba_kernels"
    " calc_logits_for_entire_prompt"
).split()
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def read_jamba(raw: Mapping[str, Any]) -> tuple[JambaConfig, str]:
    """Return the configuration and the layout of a config.json.

    Raises:
      CheckpointError: it says something that is not computed.
    """
    kind = JambaConfig
    fields = read_shared(kind, raw, _OWN, ids=_IDS, norm_eps=1e-6)
    count = fields["num_layers"]
    experts = read_size(
        kind, raw, "num_experts", "num_experts", "num_local_experts", default=16
    )
    expert_layers = _which(raw, "expert", (2, 1), count) if experts > 1 else ()
    attention = _which(raw, "attn", (8, 4), count)
    kinds = (
        (ATTENTION if i in attention else MAMBA) + EXPERTS * (i in expert_layers)
        for i in range(count)
    )
    rank = raw.get("mamba_dt_rank", "auto")
    own = {} if rank == "auto" else {"mamba_dt_rank": rank}
    expand = raw.get("mamba_expand", 2)
    return kind(
        **fields,
        num_kv_heads=read_kv_heads(kind, raw, 8),
        layer_kinds=tuple(kinds),
        num_experts=experts if expert_layers else 0,
        experts_per_token=read_size(
            kind, raw, "experts_per_token", "num_experts_per_tok", default=2
        ),
        d_feed_forward=read_size(
            kind, raw, "d_feed_forward", "intermediate_size", default=14336
        ),
        d_state=read_size(kind, raw, "d_state", "mamba_d_state", default=16),
        d_conv=read_size(kind, raw, "d_conv", "mamba_d_conv", default=4),
        d_inner=read_expand({"expand": expand}, fields["d_model"]),
        dt_rank=read_entry(kind, own, "dt_rank", "mamba_dt_rank", 0),
        use_bias=read_entry(kind, raw, "use_bias", "mamba_proj_bias", False),
        use_conv_bias=read_entry(kind, raw, "use_conv_bias", "mamba_conv_bias", True),
    ), "hf"


def _which(
    raw: Mapping, what: str, defaults: tuple[int, int], count: int
) -> Sequence[int]:
    """Return every so many layers from one on, as two entries say."""
    names = [f"{what}_layer_period", f"{what}_layer_offset"]
    period, offset = (
        raw.get(name, default) for name, default in zip(names, defaults, strict=True)
    )
    fits = all(type(x) is int for x in (period, offset)) and 0 <= offset < period
    if not fits:
        raise CheckpointError(
            f"{names[1]} must be a layer below {names[0]}, but they are "
            f"{reprlib.repr(offset)} and {reprlib.repr(period)}."
        )
    return range(offset, count, period)


def period_of(kinds: Sequence[str], is_it: Callable[[str], bool]) -> tuple[int, int]:
    """Return period and offset of the layers of a kind, as far as there are.

    Args:
      kinds: of the layers.
      is_it: whether a layer is one of those.
    """
    found = [i for i, kind in enumerate(kinds) if is_it(kind)]
    first = found[0] if found else len(kinds)
    return (found[1] - first if len(found) > 1 else len(kinds) + 1), first


def is_attention(kind: str) -> bool:
    """Say whether a kind of layer attends by softmax."""
    return mixer_kind(kind) == ATTENTION


def _has_experts(kind: str) -> bool:
    return kind.endswith(EXPERTS)


def write_jamba(config: JambaConfig, *, dtype: str) -> dict[str, Any]:
    """Return the `config.json` of a model.

    Args:
      config: the model.
      dtype: dtype of the stored weights.
    """
    period, offset = period_of(config.layer_kinds, is_attention)
    expert_period, expert_offset = period_of(config.layer_kinds, _has_experts)
    expand = config.d_inner / config.d_model
    return {
        **write_around(config, kind="JambaForCausalLM", dtype=dtype),
        "model_type": "jamba",
        "attn_layer_period": period,
        "attn_layer_offset": offset,
        "num_experts": config.num_experts or 1,
        "num_experts_per_tok": config.experts_per_token if config.num_experts else 1,
        "expert_layer_period": expert_period,
        "expert_layer_offset": expert_offset,
        "intermediate_size": config.d_feed_forward,
        "mamba_d_state": config.d_state,
        "mamba_d_conv": config.d_conv,
        "mamba_expand": int(expand) if expand.is_integer() else expand,
        "mamba_dt_rank": config.dt_rank,
        "mamba_conv_bias": config.use_conv_bias,
        "mamba_proj_bias": config.use_bias,
    }


def why_no_jamba(config: JambaConfig | None) -> str | None:
    """Return what a model is that transformers does not read; None if it does."""
    if config is None:
        return None
    for what, is_it in (("attention", is_attention), ("experts", _has_experts)):
        period, offset = period_of(config.layer_kinds, is_it)
        layers = range(offset, config.num_layers, period)
        if offset >= period or [*layers] != [
            i for i, kind in enumerate(config.layer_kinds) if is_it(kind)
        ]:
            return f"has {what} in no regular distances"
    if config.renormalise_experts or config.share_experts:
        return "has experts whose weights add up to 1, or a layer beside them"
    if config.d_expert not in (0, config.d_feed_forward):
        return "has experts of another width than its other feed-forward layers"
    if config.d_inner % config.d_model:
        return f"has {config.d_inner} channels, no multiple of {config.d_model}"
    if not config.d_feed_forward or config.use_feed_forward_bias:
        return "has other feed-forward layers"
    if config.rope_width or config.use_attention_bias:
        return "rotates its heads, or has biases in its attention"
    scales = config.embedding_multiplier, config.residual_multiplier
    if config.attention_scale or {*scales, config.logits_divisor} != {1.0}:
        return "scales its embeddings, blocks, scores or logits"
    return None
