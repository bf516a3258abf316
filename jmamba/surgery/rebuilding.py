"""Models made anew from another's parameters, under another configuration."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
from flax import nnx
from jaxtyping import Array, Float

from jmamba.layers.selection import Selection
from jmamba.models.mamba.model import MambaLM
from jmamba.models.vim.model import Vim

Model = TypeVar("Model", bound=MambaLM | Vim)

Path = tuple[str, ...]
"""Where a parameter is in a model's tree, such as ("layers", "mixer", "D")."""


def as_free(model: Model) -> Model:
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
    if model.config.definite == "free":
        graphdef, state = nnx.split(model)
        return nnx.merge(graphdef, jax.tree.map(lambda x: x, state))
    arrays = parameters_of(model)
    for path, selection in selections_of(model).items():
        for name in [key for key in arrays if key[:-1] == (*path, "gates")]:
            del arrays[name]
        arrays[*path, "x_proj", "kernel"] = stacked_W_x(selection)
    free = {"definite": "free", "definite_threshold": None, "equal_magnitudes": False}
    return rebuild(model, arrays, **free)


def rebuild(model: Model, arrays: Mapping[Path, Array], **changes: Any) -> Model:
    """Return a model with the given parameters and a changed configuration.

    Args:
      model: whose class, dtype and other choices are taken over.
      arrays: all parameters that the new configuration needs.
      **changes: fields of the configuration.
    """
    config: Any = dataclasses.replace(model.config, **changes)
    made = nnx.eval_shape(
        lambda: type(model)(
            config, dtype=model.dtype, remat=model.remat, rngs=nnx.Rngs(0)
        )
    )
    graphdef, state = nnx.split(made)
    flat = nnx.to_flat_state(state)
    other = {path for path, _ in flat} ^ set(arrays)
    assert not other, f"{other} are not parameters of both models"
    found: Mapping[Any, Array] = arrays
    leaves = [(path, leaf.replace(found[path])) for path, leaf in flat]
    return nnx.merge(graphdef, nnx.from_flat_state(leaves))


def parameters_of(model: MambaLM | Vim) -> dict[Path, Array]:
    """Return path -> array of a model."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {tuple(map(str, path)): leaf[...] for path, leaf in flat}


def selections_of(model: MambaLM | Vim) -> dict[Path, Selection]:
    """Return path -> stacked selection: one of a text's model, two of an image's."""
    mixer, path = model.layers.mixer, ("layers", "mixer")
    if isinstance(mixer, Selection):
        return {path: mixer}
    return {(*path, side): getattr(mixer, side) for side in ("forward", "backward")}


def stacked_W_x(selection: Selection) -> Float[Array, "s d _"]:
    """Return W_x of every layer of a stacked selection, (layers, d, r + 2 n)."""
    graphdef, state = nnx.split(selection)
    return jax.vmap(lambda state: nnx.merge(graphdef, state).W_x())(state)
