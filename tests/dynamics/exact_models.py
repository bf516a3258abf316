"""A float64 model, which the dynamics' tests share."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jmamba

CENTERS = {"A_log": 0.7, "D": 1.0, "dt_bias": -1.0, "scale": 1.0}


@cache
def exact_model(num_layers: int = 3, **changes) -> jmamba.MambaLM:
    """Return a tiny model with random float64 weights; call it under x64."""
    config = jmamba.MambaConfig(
        vocab_size=24,
        d_model=6,
        num_layers=num_layers,
        d_state=3,
        d_inner=10,
        dt_rank=2,
    )
    config = dataclasses.replace(config, **changes)
    model = nnx.eval_shape(
        lambda: jmamba.MambaLM(
            config, dtype=jnp.float64, param_dtype=jnp.float64, rngs=nnx.Rngs(0)
        )
    )
    draw = np.random.default_rng(0)

    def fill(path, x):
        names = jax.tree_util.keystr(path)
        center = next((v for k, v in CENTERS.items() if f"'{k}'" in names), 0.0)
        return jnp.asarray(center + 0.4 * draw.standard_normal(x.shape))

    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, jax.tree.map_with_path(fill, state))


@cache
def exact_trace(**changes) -> jmamba.Trace:
    """Return the model's trace of two random texts of 5 tokens."""
    tokens = np.random.default_rng(1).integers(0, 24, (2, 5))
    return jmamba.trace(exact_model(**changes), jnp.asarray(tokens))


def dense(blocks) -> np.ndarray:
    """Return (i, j, m, m) blocks as one matrix."""
    i, j, m, e = blocks.shape
    return np.asarray(blocks).transpose(0, 2, 1, 3).reshape(i * m, j * e)
