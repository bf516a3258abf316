"""Small models of text and images, of which every parameter is random.

They are filled without running an initializer, which takes longer than most tests.
"""

from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jmamba import (
    FalconH1Config,
    FalconH1LM,
    GraniteConfig,
    GraniteLM,
    Mamba2Config,
    Mamba2LM,
    MambaConfig,
    MambaLM,
    OlmoHybridConfig,
    OlmoHybridLM,
    Qwen3NextConfig,
    Qwen3NextLM,
)
from jmamba.models.skeleton import make_skeleton

CENTERS = {"A_log": 0.7, "D": 1.0, "dt_bias": -2.0, "scale": 1.0}


def random_text_model(**choices) -> MambaLM:
    """Return a language model of 24 tokens; equal choices give equal ones.

    Each call gets a model of its own, in which a test may change what it likes.

    Args:
      **choices: seed, layers and dtype, and fields of the configuration.
    """
    return nnx.clone(_fill(**choices))


@cache
def _fill(
    *, seed: int = 0, layers: int = 3, dtype: str = "float32", **changes
) -> MambaLM:
    sizes: dict[str, Any] = {
        "vocab_size": 24,
        "d_model": 8,
        "num_layers": layers,
        "d_state": 3,
    }
    return _filled(MambaConfig(**sizes | changes), seed, dtype)


@cache
def random_mamba2_model(
    *, seed: int = 0, layers: int = 2, dtype: str = "float32", **changes
) -> Mamba2LM:
    """Return a Mamba-2 of 24 tokens with four heads in two groups."""
    sizes: dict[str, Any] = {
        "vocab_size": 24,
        "d_model": 8,
        "num_layers": layers,
        "d_state": 3,
        "head_width": 4,
        "num_groups": 2,
    }
    return _filled(Mamba2Config(**sizes | changes), seed, dtype)


@cache
def random_hybrid_model(
    *, seed: int = 0, dtype: str = "float32", **changes
) -> GraniteLM:
    """Return a hybrid of 24 tokens: Mamba-2 twice, then attention."""
    sizes: dict[str, Any] = {
        "vocab_size": 24,
        "d_model": 8,
        "num_layers": 3,
        "layer_kinds": ("mamba", "mamba", "attention"),
        "d_state": 3,
        "head_width": 4,
        "num_groups": 2,
        "num_query_heads": 2,
        "num_kv_heads": 1,
        "d_feed_forward": 12,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.7,
        "logits_divisor": 2.0,
    }
    return _filled(GraniteConfig(**sizes | changes), seed, dtype)


@cache
def random_parallel_model(**changes) -> FalconH1LM:
    """Return a model of 24 tokens with Mamba-2 and attention side by side."""
    sizes: dict[str, Any] = {
        "vocab_size": 24,
        "d_model": 8,
        "num_layers": 2,
        "d_state": 3,
        "head_width": 4,
        "is_normed": False,
        "num_query_heads": 2,
        "rope_width": 4,
        "d_feed_forward": 12,
        "ssm_multipliers": (0.5, 1.5, 0.7, 1.3, 1.1),
        "attention_out_multiplier": 0.8,
        "head_multiplier": 0.5,
    }
    return _filled(FalconH1Config(**sizes | changes), 0, "float32")


@cache
def random_delta_model(**changes) -> OlmoHybridLM:
    """Return a hybrid of 24 tokens: gated delta nets around attention."""
    sizes: dict[str, Any] = {
        "vocab_size": 24,
        "d_model": 8,
        "num_layers": 3,
        "layer_kinds": ("delta", "attention", "delta"),
        "num_value_heads": 4,
        "num_key_heads": 2,
        "key_width": 3,
        "value_width": 2,
        "beta_limit": 2.0,
        "num_query_heads": 2,
        "rope_width": 4,
        "d_feed_forward": 12,
    }
    return _filled(OlmoHybridConfig(**sizes | changes), 0, "float32")


@cache
def random_qwen_model(**changes) -> Qwen3NextLM:
    """Return a gated delta net and gated attention of 24 tokens, with experts."""
    sizes: dict[str, Any] = {
        "vocab_size": 24,
        "d_model": 8,
        "num_layers": 2,
        "layer_kinds": ("delta_experts", "attention_experts"),
        "num_value_heads": 4,
        "num_key_heads": 2,
        "key_width": 3,
        "value_width": 2,
        "num_query_heads": 2,
        "num_kv_heads": 1,
        "rope_width": 2,
        "num_experts": 4,
        "renormalise_experts": True,
        "share_experts": True,
        "gate_shared": True,
        "d_expert": 5,
        "d_shared": 4,
    }
    return _filled(Qwen3NextConfig(**sizes | changes), 0, "float32")


def _filled(config: Any, seed: int, dtype: str) -> Any:
    skeleton = make_skeleton(config, dtype=dtype, param_dtype=dtype)
    draw = np.random.default_rng(seed)

    def fill(path, leaf):
        noise = draw.standard_normal(leaf.shape).astype(np.float32)
        value = CENTERS.get(path[-1], 0.0) + 0.3 * noise
        return jnp.asarray(value.astype(leaf.dtype))

    parameters = skeleton.parameters.items()
    return skeleton.build({path: fill(path, leaf) for path, leaf in parameters})


def random_tokens(batch=2, length=7, seed=0):
    draw = np.random.default_rng(seed)
    return jnp.asarray(draw.integers(0, 24, (batch, length)).astype(np.int32))
