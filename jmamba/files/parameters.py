"""The tree of a model's parameters: without values, flat, nested, built."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx

from jmamba.files.keys import Path
from jmamba.models.mamba.config import MambaConfig
from jmamba.models.mamba.model import MambaLM
from jmamba.models.vim.config import VimConfig
from jmamba.models.vim.model import Vim

MODELS = {MambaConfig: MambaLM, VimConfig: Vim}
"""Configuration -> model."""


class Skeleton(NamedTuple):
    """A model without values: its graph, and shape and dtype of each parameter."""

    graphdef: Any
    state: Any
    parameters: dict[Path, jax.ShapeDtypeStruct]

    @property
    def shapes(self) -> dict[Path, tuple[int, ...]]:
        """Shape of each parameter."""
        return {path: tuple(leaf.shape) for path, leaf in self.parameters.items()}

    def build(self, arrays: Mapping[Path, jax.Array]) -> Any:
        """Return the model with these parameters."""
        nnx.replace_by_pure_dict(self.state, nest(arrays))
        return nnx.merge(self.graphdef, self.state)


def make_skeleton(
    config: MambaConfig | VimConfig, *, dtype, param_dtype, remat=False
) -> Skeleton:
    """Return a model without values; nothing is computed or allocated."""
    model = nnx.eval_shape(
        lambda: MODELS[type(config)](
            config,
            dtype=dtype,
            param_dtype=param_dtype,
            remat=remat,
            rngs=nnx.Rngs(0),
        )
    )
    graphdef, state = nnx.split(model)
    return Skeleton(graphdef, state, flatten(nnx.to_pure_dict(state)))


def parameters_of(model: MambaLM | Vim) -> dict[Path, jax.Array]:
    """Return path -> array of a model."""
    return flatten(nnx.to_pure_dict(nnx.state(model, nnx.Param)))


def flatten(tree: Mapping, path: Path = ()) -> dict[Path, Any]:
    """Return path -> leaf of nested dicts."""
    found = {}
    for name, value in tree.items():
        deeper = (*path, str(name))
        found |= flatten(value, deeper) if isinstance(value, dict) else {deeper: value}
    return found


def nest(leaves: Mapping[Path, Any]) -> dict[str, Any]:
    """Return nested dicts of path -> leaf.

    Examples:
      >>> nest({("norm_f", "scale"): 1, ("embedding",): 2})
      {'norm_f': {'scale': 1}, 'embedding': 2}
    """
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = leaf
    return tree
