"""Small models with definite gates or sorted tokens, and their like without.

Every parameter is random and depends on its own name alone, so that models of different
configurations share all that they have in common.
"""

import zlib
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np

from jmamba import MambaConfig, MambaLM, Vim, VimConfig
from jmamba.models.skeleton import make_skeleton

CENTERS = {"A_log": 0.7, "D": 1.0, "dt_bias": -2.0, "scale": 1.0}


@cache
def text_model(*, seed: int = 0, dtype: str = "float32", **changes) -> MambaLM:
    """Return a language model of 24 tokens; equal arguments share one."""
    sizes: dict[str, Any] = {"vocab_size": 24, "d_model": 8, "num_layers": 2}
    sizes["d_state"] = 3
    config = MambaConfig(**sizes | changes)
    return fill_model(config, seed=seed, dtype=dtype)


@cache
def image_model(*, seed: int = 0, dtype: str = "float32", **changes) -> Vim:
    """Return a model of images of 12 x 12 pixels, 3 x 3 patches, in 5 classes."""
    sizes: dict[str, Any] = {
        "d_model": 8,
        "num_layers": 3,
        "num_classes": 5,
        "image_size": 12,
        "patch_size": 4,
        "d_state": 3,
        "dt_rank": 2,
    }
    return fill_model(VimConfig(**sizes | changes), seed=seed, dtype=dtype)


def fill_model(config, *, seed: int, dtype: str) -> Any:
    skeleton = make_skeleton(config, dtype=dtype, param_dtype=dtype)

    def fill(path, leaf):
        name = zlib.crc32("/".join(path).encode())
        noise = np.random.default_rng((seed, name)).standard_normal(leaf.shape)
        value = CENTERS.get(path[-1], 0.0) + 0.3 * noise
        return jnp.asarray(value.astype(leaf.dtype))

    parameters = skeleton.parameters.items()
    return skeleton.build({path: fill(path, leaf) for path, leaf in parameters})


def draw_tokens(batch=2, length=7, seed=0):
    draw = np.random.default_rng(seed)
    return jnp.asarray(draw.integers(0, 24, (batch, length)).astype(np.int32))


def draw_images(height=12, width=12, batch=2, seed=1, dtype="float32"):
    draw = np.random.default_rng(seed)
    return jnp.asarray(draw.standard_normal((batch, height, width, 3)), dtype)
