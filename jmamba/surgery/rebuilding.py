"""Models made anew from another's parameters, under another configuration."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.files.keys import ParameterPath
from jmamba.layers.selection import Selection
from jmamba.models.base import StackedModel
from jmamba.models.skeleton import make_skeleton, parameters_of

Rebuilt = TypeVar("Rebuilt", bound=StackedModel)


def as_free(model: Rebuilt) -> Rebuilt:
    """Return an ordinary model that computes the same, its gates no longer tied.

    W_x of every layer is written out. What comes out saves in the layout that
    transformers loads, and generates without making W_x again at every token.

    Args:
      model: the model, which is not changed.

    Examples:
      >>> import jmamba, jax.numpy as jnp
      >>> sizes = {"vocab_size": 9, "d_model": 8, "num_layers": 1}
      >>> config = jmamba.MambaConfig(**sizes, definite="pos")
      >>> model, tokens = jmamba.MambaLM(config, rngs=nnx.Rngs(0)), jnp.array([[3, 1]])
      >>> free = as_free(model)
      >>> bool(jnp.allclose(free(tokens).logits, model(tokens).logits))
      True
    """
    if getattr(model.config, "definite", "free") == "free":
        graphdef, state = nnx.split(model)
        return nnx.merge(graphdef, jax.tree.map(lambda x: x, state))
    arrays = parameters_of(model)
    for path, selection in selections_of(model).items():
        for name in [key for key in arrays if key[:-1] == (*path, "gates")]:
            del arrays[name]
        arrays[*path, "x_proj", "kernel"] = stacked_W_x(selection)
    free = {"definite": "free", "definite_threshold": None, "equal_magnitudes": False}
    return rebuild(model, arrays, **free)


def rebuild(
    model: Rebuilt, arrays: Mapping[ParameterPath, Array], **changes: Any
) -> Rebuilt:
    """Return a model with the given parameters and a changed configuration.

    Args:
      model: whose class, dtype and other choices are taken over.
      arrays: all parameters that the new configuration needs.
      **changes: fields of the configuration.
    """
    config: Any = dataclasses.replace(model.config, **changes)
    skeleton = make_skeleton(
        config, dtype=model.dtype, param_dtype=jnp.float32, remat=model.remat
    )
    other = set(skeleton.parameters) ^ set(arrays)
    assert not other, f"{other} are not parameters of both models"
    return skeleton.build(arrays)


def selections_of(model: StackedModel) -> dict[ParameterPath, Selection]:
    """Return path -> stacked selection: one of a text's model, two of an image's."""
    mixer, path = model.layers.mixer, ("layers", "mixer")
    if isinstance(mixer, Selection):
        return {path: mixer}
    return {(*path, side): getattr(mixer, side) for side in ("forward", "backward")}


def stacked_W_x(selection: Selection) -> Float[Array, "s d _"]:
    """Return W_x of every layer of a stacked selection, (layers, d, r + 2 n)."""
    graphdef, state = nnx.split(selection)
    return jax.vmap(lambda state: nnx.merge(graphdef, state).W_x())(state)
