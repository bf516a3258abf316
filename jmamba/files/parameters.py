"""The tree of a model's parameters, flat and nested."""

from collections.abc import Mapping
from typing import Any

from jmamba.files.keys import ParameterPath


def flatten(tree: Mapping, path: ParameterPath = ()) -> dict[ParameterPath, Any]:
    """Return path -> leaf of nested dicts."""
    found = {}
    for name, value in tree.items():
        deeper = (*path, str(name))
        found |= flatten(value, deeper) if isinstance(value, dict) else {deeper: value}
    return found


def nest(leaves: Mapping[ParameterPath, Any]) -> dict[str, Any]:
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
