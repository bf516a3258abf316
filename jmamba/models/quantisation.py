"""Models whose matrices are weights in 8 bits."""

from typing import Any, TypeVar

import jax
from flax import nnx

from jmamba.layers.int8 import Int8Weights, round_weights
from jmamba.layers.letters import path_of

Model = TypeVar("Model", bound=nnx.Module)

KEPT = ("dt_proj",)
"""Maps whose weights stay as they are: step sizes are sensitive, and they are small."""


def quantise(model: Model) -> Model:
    """Return a model whose matrices are in 8 bits, and all else as it is.

    Each output of a linear map of the layers, and each token of the embedding table and
    the output projection, has a step of its own; weights are rounded to whole numbers
    of it, at most 127. The memory of these is a quarter of float32's. Activations stay
    in the model's dtype, and derivatives with respect to them are those of the rounded
    weights; there are none with respect to the weights.

    Args:
      model: any model; it stays as it is.

    Returns:
      A model of the same kind, which can neither be trained nor saved.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jmamba import MambaConfig, MambaLM
      >>> config = MambaConfig(vocab_size=64, d_model=16, num_layers=2)
      >>> model = MambaLM(config, rngs=nnx.Rngs(0))
      >>> small, tokens = quantise(model), jnp.array([[1, 2, 3]])
      >>> float(jnp.abs(small(tokens).logits - model(tokens).logits).max()) < 0.05
      True
    """
    graphdef, state = nnx.split(model)

    def round_one(keys, x):
        *_, owner, name = ("", *path_of(keys))
        if name == "embedding" and x.ndim == 2:
            return round_weights(x, inputs=-1)
        is_map = name == "kernel" and x.ndim == 3 and owner not in KEPT
        if is_map or name == "lm_head":
            return round_weights(x, inputs=-2)
        return x

    return nnx.merge(graphdef, jax.tree.map_with_path(round_one, state))


def check_weights(weights: Any, sharding: Any = None) -> None:
    """Raise unless weights are to be as they are, or in 8 bits on one device.

    Raises:
      ValueError: they are not.
    """
    if weights not in (None, "int8"):
        raise ValueError(
            f"weights={weights!r}: give 'int8' for matrices in 8 bits, or leave it "
            "out; floating dtypes are given as dtype."
        )
    if weights is not None and sharding is not None:
        raise ValueError(
            "weights='int8' is for one device; leave out one of weights and sharding."
        )


def is_quantised(model: Any) -> bool:
    """Say whether some weights of a model are in 8 bits."""
    leaves = jax.tree.leaves(
        nnx.state(model), is_leaf=lambda x: isinstance(x, Int8Weights)
    )
    return any(isinstance(x, Int8Weights) for x in leaves)
