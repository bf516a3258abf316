"""What llama.cpp calls Mamba-2."""

from typing import Any

from jmamba.models.gguf_dialect import (
    GGUFDialect,
    Header,
    Pair,
    around_sizes,
    decay_pair,
    read_around,
    recurrent_sizes,
    reshaped_pair,
    same,
    why_no_heads,
    why_no_recurrence,
    window_pair,
)
from jmamba.models.mamba.gguf import LAYER, around_pairs, recurrent_names
from jmamba.models.mamba2.config import Mamba2Config


def heads_pairs(prefix: str, config: Any) -> list[Pair]:
    """Return the tensors of a Mamba-2 mixer.

    Args:
      prefix: of transformers' names.
      config: of the model.
    """
    return [
        *same(recurrent_names(prefix)),
        *same({f"{prefix}dt_bias": "blk.{}.ssm_dt.bias"}),
        decay_pair(f"{prefix}A_log", 1),
        window_pair(f"{prefix}conv1d.weight"),
        reshaped_pair(f"{prefix}D", "blk.{}.ssm_d", config.num_heads),
        reshaped_pair(
            f"{prefix}norm.weight", "blk.{}.ssm_norm.weight", config.num_groups
        ),
    ]


def _read(header: Header) -> dict[str, Any]:
    heads, d_inner = header.entry("ssm.time_step_rank"), header.entry("ssm.inner_size")
    return {
        **read_around(header),
        "model_type": "mamba2",
        "expand": d_inner / header.entry("embedding_length"),
        "num_heads": heads,
        "head_dim": d_inner // heads,
        "n_groups": header.entry("ssm.group_count"),
        "state_size": header.entry("ssm.state_size"),
        "conv_kernel": header.entry("ssm.conv_kernel"),
        "layer_norm_epsilon": header.entry("attention.layer_norm_rms_epsilon"),
    }


def _write(config: Mamba2Config) -> dict[str, Any]:
    return {
        **around_sizes(config),
        **recurrent_sizes(config, config.num_heads),
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "ssm.group_count": config.num_groups,
    }


MAMBA2_GGUF = GGUFDialect(
    kind="mamba2",
    pairs=lambda config: [*around_pairs(), *heads_pairs(f"{LAYER}mixer.", config)],
    read=_read,
    write=_write,
    refusal=lambda config: why_no_recurrence(config) or why_no_heads(config),
)
