"""What llama.cpp calls the parts that hybrids share."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jmamba.models.gguf_dialect import (
    Header,
    Pair,
    around_sizes,
    read_around,
    recurrent_sizes,
    same,
)
from jmamba.models.hybrid.config import ATTENTION, MAMBA
from jmamba.models.mixer_keys import HEAD_KEY

LAYER = "model.layers.{}."


def hybrid_pairs(final_norm: str, feed_forward_norm: str) -> list[Pair]:
    """Return the tensors around the mixers and maps of a hybrid.

    Args:
      final_norm, feed_forward_norm: transformers' names of two norms.
    """
    return same(
        {
            "model.embed_tokens.weight": "token_embd.weight",
            f"model.{final_norm}.weight": "output_norm.weight",
            HEAD_KEY: "output.weight",
            f"{LAYER}input_layernorm.weight": "blk.{}.attn_norm.weight",
            f"{LAYER}{feed_forward_norm}.weight": "blk.{}.ffn_norm.weight",
        }
    )


def map_pairs(prefix: str, names: Mapping[str, str]) -> list[Pair]:
    """Return weights and biases of some maps.

    Args:
      prefix: of transformers' names.
      names: transformers' -> llama.cpp's.
    """
    return same(
        {
            f"{LAYER}{prefix}.{key}.{part}": f"blk.{{}}.{name}.{part}"
            for key, name in names.items()
            for part in ("weight", "bias")
        }
    )


SWIGLU_NAMES = {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
ATTENTION_NAMES = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
}
"""Transformers' names of maps -> llama.cpp's."""


def rotated(pair: Pair, heads: int, width: int) -> Pair:
    """Return the pair of a map to heads, of which llama.cpp rotates neighbours.

    Transformers rotates number i of a head with i + width / 2, llama.cpp 2 i with
    2 i + 1, so that rows are kept in another order.

    Args:
      pair: of the map.
      heads: how many there are.
      width: how many numbers of each are rotated, the first ones.
    """

    def reorder(x: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
        by_head = x.reshape(heads, -1, *x.shape[1:])
        first = by_head[:, :width].reshape(heads, *axes, *x.shape[1:]).swapaxes(1, 2)
        first = first.reshape(heads, width, *x.shape[1:])
        return np.concatenate([first, by_head[:, width:]], axis=1).reshape(x.shape)

    return pair._replace(
        read=lambda x: reorder(x, (width // 2, 2)),
        write=lambda x: (reorder(x, (2, width // 2)),),
    )


def neighbouring_pairs(config: Any) -> list[Pair]:
    """Return the tensors of attention whose rotations are those of neighbours."""
    width = config.rope_width or config.query_width
    found = []
    for pair in map_pairs("self_attn", ATTENTION_NAMES):
        heads = {"q": config.num_query_heads, "k": config.num_kv_heads}
        letter = pair.key.split(".")[-2][0]
        found.append(rotated(pair, heads[letter], width) if letter in heads else pair)
    return found


def hybrid_sizes(config: Any, rank: int) -> dict[str, Any]:
    """Return the entries that hybrids share.

    Args:
      config: the model.
      rank: what llama.cpp calls the rank of the step size, of Mamba-2 its heads.
    """
    return {
        **around_sizes(config),
        **recurrent_sizes(config, rank),
        "feed_forward_length": config.d_feed_forward,
        "attention.head_count": config.num_query_heads,
        "attention.head_count_kv": [
            config.num_kv_heads if kind != MAMBA else 0 for kind in config.layer_kinds
        ],
    }


def read_hybrid(header: Header) -> dict[str, Any]:
    """Return the entries of config.json that hybrids share."""
    return {
        **read_around(header),
        "num_attention_heads": header.entry("attention.head_count"),
        "num_key_value_heads": max(header.per_layer("attention.head_count_kv")),
        "rms_norm_eps": header.entry("attention.layer_norm_rms_epsilon"),
        "mamba_d_state": header.entry("ssm.state_size"),
        "mamba_d_conv": header.entry("ssm.conv_kernel"),
        "mamba_expand": _plain(
            header.entry("ssm.inner_size") / header.entry("embedding_length")
        ),
        "attention_bias": any(".attn_q.bias" in name for name in header.shapes),
    }


def _plain(x: float) -> float | int:
    return int(x) if x.is_integer() else x


def read_heads_of(header: Header) -> dict[str, Any]:
    """Return the entries of config.json of Mamba-2's heads."""
    heads = header.entry("ssm.time_step_rank")
    return {
        "mamba_n_heads": heads,
        "mamba_d_head": header.entry("ssm.inner_size") // heads,
        "mamba_n_groups": header.entry("ssm.group_count"),
        "mamba_conv_bias": any("ssm_conv1d.bias" in name for name in header.shapes),
    }


def read_layer_kinds(header: Header) -> list[str]:
    """Return what each layer is: one without heads of keys is a recurrence."""
    heads = header.per_layer("attention.head_count_kv")
    return [ATTENTION if count else MAMBA for count in heads]


def has_feed_forward_bias(header: Header) -> bool:
    """Say whether the maps of feed-forward layers have biases."""
    return any(".ffn_down.bias" in name for name in header.shapes)
