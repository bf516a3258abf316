"""Tiny random hybrids, made by transformers itself, and what they are compared in."""

import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from checkpoint_samples import random_tokens, torch, transformers
from flax import nnx
from helpers import relative_error
from test_parity import GRADIENTS, LOGITS, ours, theirs

from jmamba.files.keys import nest
from jmamba.models.skeleton import parameters_of, slots_of

CLASSES = {
    "granite": ("GraniteMoeHybridConfig", "GraniteMoeHybridForCausalLM"),
    "bamba": ("BambaConfig", "BambaForCausalLM"),
    "falcon_h1": ("FalconH1Config", "FalconH1ForCausalLM"),
    "jamba": ("JambaConfig", "JambaForCausalLM"),
    "olmo_hybrid": ("OlmoHybridConfig", "OlmoHybridForCausalLM"),
    "qwen3_next": ("Qwen3NextConfig", "Qwen3NextForCausalLM"),
}
SHARED = {
    "vocab_size": 24,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "mamba_n_heads": 8,
    "mamba_d_state": 4,
    "mamba_n_groups": 2,
    "pad_token_id": None,  # theirs leave its embedding without a gradient
}
OF_MAMBA = ("granite", "bamba", "falcon_h1", "jamba")
GRANITE = {
    "num_local_experts": 0,
    "shared_intermediate_size": 12,
    "layer_types": ["mamba", "attention", "mamba"],
    "attention_multiplier": 0.4,
}
KNOBS = {
    "granite": {
        "scaled": {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.6,
            "logits_scaling": 2.0,
            "tie_word_embeddings": True,
            "time_step_limit": (0.05, 0.4),
        },
        "rotated": {
            "position_embedding_type": "rope",
            "attention_bias": True,
            "mamba_proj_bias": True,
            "mamba_conv_bias": False,
            "num_key_value_heads": 4,
            "layer_types": ["attention", "mamba", "mamba"],
        },
    },
    "bamba": {
        "half": {
            "attn_layer_indices": [2],
            "attention_bias": True,
            "mlp_bias": True,
            "rms_norm_eps": 1e-3,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "rope_theta": 100.0,
        },
    },
}
KNOBS["falcon_h1"] = {
    "scaled": {
        "mamba_d_ssm": 24,
        "embedding_multiplier": 3.0,
        "lm_head_multiplier": 0.6,
        "mlp_multipliers": [0.8, 1.3],
        "key_multiplier": 0.7,
        "attention_in_multiplier": 1.2,
        "attention_out_multiplier": 0.9,
        "ssm_in_multiplier": 1.1,
        "ssm_out_multiplier": 0.8,
        "ssm_multipliers": [0.5, 1.5, 0.7, 1.3, 1.1],
    },
    "normed": {
        "mamba_d_ssm": None,
        "mamba_rms_norm": True,
        "mamba_norm_before_gate": True,
        "mamba_proj_bias": True,
        "projectors_bias": True,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
    },
}
KNOBS["jamba"] = {
    "dense": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "biased": {
        "attn_layer_period": 3,
        "attn_layer_offset": 2,
        "mamba_proj_bias": True,
        "mamba_conv_bias": False,
        "mamba_dt_rank": 3,
        "rms_norm_eps": 1e-3,
        "tie_word_embeddings": True,
    },
}
KNOBS["granite"]["experts"] = {
    "num_local_experts": 5,
    "num_experts_per_tok": 3,
    "intermediate_size": 8,  # theirs needs whole 16 bytes
    "residual_multiplier": 0.6,
}
KNOBS["jamba"]["experts"] = {
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 0,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}
KNOBS["olmo_hybrid"] = {
    "turning": {"rms_norm_eps": 1e-3, "tie_word_embeddings": True},
    "rotated": {
        "linear_allow_neg_eigval": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
        "attention_bias": True,
        "layer_types": ["full_attention", "linear_attention", "linear_attention"],
    },
}
QWEN = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,  # theirs needs whole 16 bytes
    "shared_expert_intermediate_size": 5,
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 6,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}
KNOBS["qwen3_next"] = {
    "experts": {"rms_norm_eps": 1e-3},
    "mixed": {
        "mlp_only_layers": [0],
        "norm_topk_prob": False,
        "tie_word_embeddings": True,
        "attention_bias": True,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 100.0,
            "partial_rotary_factor": 0.5,
        },
    },
}
OLMO = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 6,
    "linear_conv_kernel_dim": 3,
    "rope_parameters": {"rope_type": "default", "rope_theta": None},
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
}
FEED_FORWARD = {"intermediate_size": 12}
OWN = {
    "granite": GRANITE,
    "bamba": FEED_FORWARD,
    "falcon_h1": FEED_FORWARD | {"num_hidden_layers": 2},
    "jamba": FEED_FORWARD | {"num_experts": 1, "num_experts_per_tok": 1},
    "olmo_hybrid": FEED_FORWARD | OLMO,
    "qwen3_next": FEED_FORWARD | QWEN,
}
JOINED: dict[str, dict[str, str]] = {}
JOINED["olmo_hybrid"] = {
    "attention_layer_norm": "input_layernorm",
    "feedforward_layer_norm": "post_attention_layernorm",
}
"""Part of a name in files -> in the memory of transformers."""

PARTS = {
    r"[qkv]_conv1d": "conv1d",
    r"experts\.\d+\.(gate|up)_proj\.weight": "experts.gate_up_proj",
    r"experts\.\d+\.down_proj\.weight": "experts.down_proj",
    r"block_sparse_moe\.input_linear\.weight": (
        "block_sparse_moe.experts.gate_up_proj"
    ),
    r"block_sparse_moe\.output_linear\.weight": "block_sparse_moe.experts.down_proj",
    r"block_sparse_moe\.router\.layer": "block_sparse_moe.router",
}
"""The same of tensors that are one in memory."""


@cache
def torch_hybrid(kind: str, knobs: str, **changes):
    """Return a transformers model whose every parameter is random."""
    config_class, model_class = (getattr(transformers, name) for name in CLASSES[kind])
    shared = {
        name: value
        for name, value in SHARED.items()
        if kind in OF_MAMBA or not name.startswith("mamba")
    }
    config = config_class(**shared | OWN[kind] | KNOBS[kind][knobs] | changes)
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def compare_with_theirs(made, model) -> None:
    """Hold logits, hidden states and gradients against those of transformers."""
    tokens = random_tokens()
    logits, hidden, gradients = theirs(made, tokens)
    our_logits, our_hidden, our_gradients = ours(model, jnp.asarray(tokens, jnp.int32))
    assert relative_error(our_logits, logits) < LOGITS
    # theirs begin with the embeddings, and of the last layer are those behind its norm
    first = model.embed(jnp.asarray(tokens, jnp.int32))
    assert len(hidden) == model.config.num_layers + 1
    for mine, other in zip(
        (first, *our_hidden[:-2], our_hidden[-1]), hidden, strict=True
    ):
        assert relative_error(mine, other) < LOGITS
    parameters = parameters_of(model)
    table = slots_of(model.config, parameters)
    gradients = as_in_files(made.config.model_type, gradients, table)
    assert set(table) == set(gradients)
    found = {path: np.full(a.shape, np.nan) for path, a in parameters.items()}
    for key, (path, index, change, _) in table.items():
        place = found[path][index]
        place[:] = change.from_torch(gradients[key])
    errors = jax.tree.map(relative_error, nnx.to_pure_dict(our_gradients), nest(found))
    assert max(jax.tree.leaves(errors)) < GRADIENTS, errors


def as_in_files(kind: str, gradients: dict, table: dict) -> dict:
    """Return gradients by the names of files, which hold some tensors in parts."""
    found = {}
    for key, slot in table.items():
        name = key
        for part, memory in JOINED.get(kind, {}).items():
            name = name.replace(part, memory)
        for pattern, joined in PARTS.items():
            name = re.sub(pattern, joined, name)
        whole = gradients[name]
        if ".experts." in key:  # gate and up of all experts are one
            whole = whole[slot.part[-1]]
            half = len(whole) // 2
            halves = {"gate_proj": whole[:half], "up_proj": whole[half:]}
            whole = halves.get(key.split(".")[-2], whole)
        elif "conv1d" in key and name != key:
            whole = whole[slot.part[-1]]
        found[key] = whole
    return found
