"""The letters of the axes of a model's parameters, as its modules say them.

Beside its `__init__` a module says in `letters` what the axes of its parameters are,
those of the linear maps in it too: {"in_proj.kernel": "md", "D": "d"}. How a model
lies on several devices follows from that.
"""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

Path = tuple[str, ...]

SHARED = frozenset("dhv")
"""Letters by which parameters say how activations are spread."""


def letters_of(model: nnx.Module) -> dict[Path, str]:
    """Return path -> letters of the axes of every parameter.

    Stacked layers have a leading s. What no module speaks of has `_` for each axis.

    Args:
      model: with values, or without as `nnx.eval_shape` makes it.

    Examples:
      >>> from jmamba import MambaConfig, MambaLM
      >>> config = MambaConfig(vocab_size=8, d_model=4, num_layers=1)
      >>> letters = letters_of(MambaLM(config, rngs=nnx.Rngs(0)))
      >>> letters["embedding",], letters["layers", "mixer", "A_log"]
      ('vm', 'sdn')
    """
    said: dict[Path, str] = {}
    nodes = [(p, x) for p, x in nnx.iter_graph(model) if isinstance(x, nnx.Module)]
    for path, module in sorted(nodes, key=lambda one: -len(one[0])):  # outer ones win
        for name, letters in getattr(module, "letters", {}).items():
            said[(*map(str, path), *name.split("."))] = letters
    leaves = jax.tree.leaves_with_path(nnx.state(model, nnx.Param))
    return {
        path: _fit(said.get(path, ""), leaf.ndim)
        for path, leaf in ((path_of(keys), leaf) for keys, leaf in leaves)
    }


def path_of(keys: Any) -> Path:
    """Return a path of JAX in a model's state as names."""
    names = (getattr(key, "key", None) for key in keys)
    return tuple(str(name) for name in names if name is not None)


def shared_letters(model: nnx.Module) -> Any:
    """Return the letters of parameters that activations have too, for `keep_places`.

    Returns:
      As `nnx.state(model)` is built; `_` for an axis of another letter.
    """
    letters: Mapping[Path, str] = letters_of(model)

    def keep(keys, leaf):
        mine = letters.get(path_of(keys), "")
        return "".join(x if x in SHARED else "_" for x in mine)

    return jax.tree.map_with_path(keep, nnx.state(model))


def _fit(letters: str, axes: int) -> str:
    """Return letters of as many axes, the first one of layers if it is not said."""
    if not letters:
        return "_" * axes
    return letters if len(letters) == axes else "s" + letters
