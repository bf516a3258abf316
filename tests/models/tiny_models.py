"""Tiny models whose every parameter is random, and tokens for them."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jmamba import MambaConfig, MambaLM

VOCAB = 24

KINDS = {
    "mamba": {},
    "falcon": {"mixer_rms_eps": 1e-6, "tie_embeddings": False},
    "knobs": {"use_bias": True, "use_conv_bias": False, "d_conv": 3, "d_state": 5},
}


def tiny_config(kind: str = "mamba", **changes) -> MambaConfig:
    sizes = {"vocab_size": VOCAB, "d_model": 8, "num_layers": 2, "d_state": 4}
    return MambaConfig(**sizes | KINDS[kind] | changes)


@cache
def tiny_model(kind: str = "mamba", *, seed: int = 0, num_layers: int = 2, **options):
    """Return a model of a few thousand parameters; equal arguments share one."""
    config = tiny_config(kind, num_layers=num_layers)
    return randomize(MambaLM(config, **options, rngs=nnx.Rngs(seed)), seed)


def randomize(model: MambaLM, seed: int) -> MambaLM:
    """Add noise to every parameter, so that none of them has no effect."""
    draw = np.random.default_rng(seed)

    def add_noise(x):
        return x + jnp.asarray(0.2 * draw.standard_normal(x.shape), x.dtype)

    nnx.update(model, jax.tree.map(add_noise, nnx.state(model)))
    return model


def random_tokens(batch: int, length: int, seed: int = 0) -> jax.Array:
    draw = np.random.default_rng(seed)
    return jnp.asarray(draw.integers(0, VOCAB, (batch, length)), jnp.int32)
