"""Tiny models whose every parameter is random, and tokens for them.

They are filled without running an initializer: compiling those takes a test longer than
all the rest.
"""

from functools import cache

import chex
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

CENTERS = {"A_log": 0.7, "D": 1.0, "dt_bias": -2.0, "scale": 1.0}
"""Means of the parameters that are not around zero."""


def tiny_config(kind: str = "mamba", **changes) -> MambaConfig:
    sizes = {"vocab_size": VOCAB, "d_model": 8, "num_layers": 2, "d_state": 4}
    return MambaConfig(**sizes | KINDS[kind] | changes)


@cache
def tiny_model(kind: str = "mamba", *, seed: int = 0, num_layers: int = 2) -> MambaLM:
    """Return a model of a few thousand parameters; equal arguments share one."""
    draw = np.random.default_rng(seed)

    def fill(path, x):
        names = jax.tree_util.keystr(path)
        center = next((v for k, v in CENTERS.items() if f"'{k}'" in names), 0.0)
        value = center + 0.3 * draw.standard_normal(x.shape)
        return jnp.asarray(value.astype(x.dtype))

    graphdef, state = nnx.split(skeleton(tiny_config(kind, num_layers=num_layers)))
    return nnx.merge(graphdef, jax.tree.map_with_path(fill, state))


def skeleton(config: MambaConfig, **options) -> MambaLM:
    """Return a model that has shapes and dtypes, but no values."""
    return nnx.eval_shape(lambda: MambaLM(config, **options, rngs=nnx.Rngs(0)))


def remake(model: MambaLM, config: MambaConfig | None = None, **options) -> MambaLM:
    """Return a model with the weights of another and other options."""
    graphdef, shapes = nnx.split(skeleton(config or model.config, **options))
    cast = jax.tree.map(
        lambda x, to: jnp.asarray(np.asarray(x).astype(to.dtype)),
        nnx.state(model),
        shapes,
    )
    return nnx.merge(graphdef, cast)


def count_traces(monkeypatch, module, name: str) -> list:
    """Return a list that grows with every trace of a function; two of them raise."""
    original, traces = getattr(module, name), []

    def counted(*args):
        traces.append(name)
        return original(*args)

    monkeypatch.setattr(module, name, chex.assert_max_traces(counted, n=1))
    return traces


def random_tokens(batch: int, length: int, seed: int = 0) -> jax.Array:
    draw = np.random.default_rng(seed)
    return jnp.asarray(draw.integers(0, VOCAB, (batch, length)).astype(np.int32))
