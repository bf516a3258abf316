"""What llama.cpp calls Mamba-1 and Falcon-Mamba."""

from typing import Any

from jmamba.models.gguf_dialect import (
    GGUFDialect,
    Header,
    Pair,
    around_sizes,
    decay_pair,
    read_around,
    recurrent_sizes,
    same,
    why_no_recurrence,
    window_pair,
)
from jmamba.models.mamba.config import MambaConfig
from jmamba.models.mixer_keys import HEAD_KEY, HF_KEY

LAYER = "backbone.layers.{}."


def recurrent_names(prefix: str) -> dict[str, str]:
    """Return transformers' name -> llama.cpp's of what stays the same in a mixer.

    Args:
      prefix: of transformers' names.
    """
    return {
        f"{prefix}in_proj.weight": "blk.{}.ssm_in.weight",
        f"{prefix}conv1d.bias": "blk.{}.ssm_conv1d.bias",
        f"{prefix}out_proj.weight": "blk.{}.ssm_out.weight",
    }


def mamba_pairs(prefix: str) -> list[Pair]:
    """Return the tensors of a Mamba-1 mixer.

    Args:
      prefix: of transformers' names.
    """
    return [
        *same(recurrent_names(prefix)),
        *same(
            {
                f"{prefix}x_proj.weight": "blk.{}.ssm_x.weight",
                f"{prefix}dt_proj.weight": "blk.{}.ssm_dt.weight",
                f"{prefix}dt_proj.bias": "blk.{}.ssm_dt.bias",
                f"{prefix}D": "blk.{}.ssm_d",
            }
        ),
        decay_pair(f"{prefix}A_log", 2),
        window_pair(f"{prefix}conv1d.weight"),
    ]


def around_pairs() -> list[Pair]:
    """Return the tensors around the mixers of Mamba-1 and Mamba-2."""
    return same(
        {
            HF_KEY: "token_embd.weight",
            "backbone.norm_f.weight": "output_norm.weight",
            HEAD_KEY: "output.weight",
            f"{LAYER}norm.weight": "blk.{}.attn_norm.weight",
        }
    )


def _read(header: Header) -> dict[str, Any]:
    is_falcon = header.entry("ssm.dt_b_c_rms", False)
    return {
        **read_around(header),
        "model_type": "falcon_mamba" if is_falcon else "mamba",
        "intermediate_size": header.entry("ssm.inner_size"),
        "state_size": header.entry("ssm.state_size"),
        "conv_kernel": header.entry("ssm.conv_kernel"),
        "time_step_rank": header.entry("ssm.time_step_rank"),
        "layer_norm_epsilon": header.entry("attention.layer_norm_rms_epsilon"),
    }


def _write(config: MambaConfig) -> dict[str, Any]:
    return {
        **around_sizes(config),
        **recurrent_sizes(config, config.dt_rank),
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "ssm.dt_b_c_rms": config.is_falcon,
    }


MAMBA_GGUF = GGUFDialect(
    kind="mamba",
    pairs=lambda config: [*around_pairs(), *mamba_pairs(f"{LAYER}mixer.")],
    read=_read,
    write=_write,
    refusal=why_no_recurrence,
)
