"""Parameters in a model's tree, and tables of which tensor is which parameter."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

ParameterPath = tuple[str, ...]
"""Where a parameter is in the model's tree, such as ("layers", "norm", "scale")."""


class Change(NamedTuple):
    """How a tensor of one layer changes on the way in and on the way out."""

    from_torch: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]

    def torch_part(self, part: tuple[slice, ...]) -> tuple[slice, ...]:
        """Return which part of a tensor becomes a part of a parameter's layer.

        Examples:
          >>> TRANSPOSE.torch_part((slice(0, 3), slice(4, 6)))
          (slice(4, 6, None), slice(0, 3, None))
        """
        probe = np.zeros((2,) * len(part))  # its strides tell the axes apart
        slices = dict(zip(probe.strides, part, strict=True))
        found = self.to_torch(probe).strides
        return tuple(slices.get(stride, slice(None)) for stride in found)


SAME = Change(lambda x: x, lambda x: x)
TRANSPOSE = Change(np.transpose, np.transpose)  # torch keeps (out, in), we (in, out)
TRANSPOSE_EACH = Change(  # the same of each expert
    lambda w: w.transpose(0, 2, 1), lambda w: w.transpose(0, 2, 1)
)
DEPTHWISE = Change(lambda w: w[:, 0, :], lambda w: w[:, None, :])  # d 1 k <-> d k
PATCHES = Change(  # out colours rows columns <-> rows columns colours out
    lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1)
)
BATCHED = Change(lambda x: x[0], lambda x: x[None])  # 1 l m <-> l m
TWICE_BATCHED = Change(lambda x: x[0, 0], lambda x: x[None, None])  # 1 1 m <-> m


class Row(NamedTuple):
    """One row of a table.

    Attributes:
      key: the tensor's name; one with {} has a tensor per layer, one with a second {}
        for each expert of a layer, which are its parameter's next axis.
      path: the parameter.
      change: how the tensor changes.
      aliases: other names under which a checkpoint may hold it instead.
      like: of a tensor that is only some rows of its parameter, behind those of the
        rows before of the same parameter: the parameter beside it, named from its
        mixer on, that has as many columns; () for one that is all of it.
    """

    key: str
    path: ParameterPath
    change: Change = SAME
    aliases: tuple[str, ...] = ()
    like: ParameterPath = ()


Part = tuple[int | slice, ...]
"""Which part of a parameter: () for all, then the layer, then an expert or rows."""


class Slot(NamedTuple):
    """Where one tensor of a checkpoint goes: into a parameter, or a part of it."""

    path: ParameterPath
    part: Part
    change: Change
    shape: tuple[int, ...]


def plain_table(paths: Iterable[ParameterPath]) -> tuple[Row, ...]:
    """Return the table of names that follow from the parameters' own.

    Stacked layers are numbered, and tensors do not change.

    Examples:
      >>> [row.key for row in plain_table([("norm_f", "scale"), ("layers", "D")])]
      ['norm_f.scale', 'layers.{}.D']
    """
    return tuple(
        Row(".".join(("layers", "{}", *path[1:])), path)
        if path[0] == "layers"
        else Row(".".join(path), path)
        for path in paths
    )


def slots(
    table: Sequence[Row],
    shapes: Mapping[ParameterPath, tuple[int, ...]],
    keys: Any = (),
    starts: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Slot]:
    """Return key -> slot for every tensor that a model with these parameters needs.

    Args:
      table: a layout's.
      shapes: shape of each parameter, layers stacked along the first axis.
      keys: those at hand; an alias among them takes the place of a row's key that is
        not. Of a mapping to what has a `shape`, tensors that make up one parameter may
        divide it as they like.
      starts: what the parameters of each run of layers are under, below the first name
        of their path -> the first of its layers; () if all layers are stacked alike.

    Examples:
      >>> table = [Row("layers.{}.x_proj", ("layers", "x_proj", "kernel"), TRANSPOSE)]
      >>> for key, slot in slots(table, {table[0].path: (2, 32, 12)}).items():
      ...     print(key, slot.part, slot.shape)
      layers.0.x_proj (0,) (12, 32)
      layers.1.x_proj (1,) (12, 32)
    """
    found: dict[str, Slot] = {}
    for row in table:
        axes = row.key.count("{}")
        for path, first in _placed(row, starts):
            if path not in shapes:  # no bias, a tied head, another kind of layer
                continue
            shape = shapes[path]
            for index in np.ndindex(shape[:axes]):
                key = _stored_key(row, index, first, keys)
                own = shape[axes:]
                if row.like:
                    peers = [one for one in table if one.path == row.path]
                    part = _rows(row, peers, path, (index, first), shapes, keys)
                    index, own = (*index, part), (part.stop - part.start, *own[1:])
                change = row.change
                found[key] = Slot(path, index, change, _torch_shape(own, change))
    return found


def _stored_key(row: Row, index: tuple[int, ...], first: int, keys: Any) -> str:
    """Return a tensor's name, or its alias if that is at hand and the name is not."""
    numbers = (index[0] + first, *index[1:]) if index else ()
    names = [name.format(*numbers) for name in (row.key, *row.aliases)]
    return next((name for name in names if name in keys), names[0])


def _rows(
    row: Row,
    peers: list[Row],
    path: ParameterPath,
    where: tuple[tuple[int, ...], int],
    shapes: Mapping[ParameterPath, tuple[int, ...]],
    keys: Any,
) -> slice:
    """Return which rows of its parameter a tensor is.

    Args:
      row: of the tensor.
      peers: rows of all tensors that make up the parameter.
      path: of the parameter.
      where: layer in its run, and the first of the run.
      shapes: of all parameters.
      keys: those at hand; where they have shapes that make up the parameter, these say.
    """
    beside = path[: len(path) - len(row.path) + 2]
    counts = [shapes[beside + one.like][-1] for one in peers]
    stored = [_stored_key(one, *where, keys) for one in peers]
    if isinstance(keys, Mapping) and all(name in keys for name in stored):
        there = [tuple(keys[name].shape) for name in stored]
        if all(there) and sum(x[0] for x in there) == shapes[path][len(where[0])]:
            counts = [x[0] for x in there]
    place = peers.index(row)
    return slice(sum(counts[:place]), sum(counts[: place + 1]))


def _placed(row: Row, starts: Mapping[str, int]) -> list[tuple[ParameterPath, int]]:
    """Return where a row's parameters are, and the first layer of each."""
    if not starts or "{}" not in row.key:
        return [(row.path, 0)]
    head, *rest = row.path
    if rest[0] in starts:  # named by `plain_table`
        return [(row.path, starts[rest[0]])]
    return [((head, run, *rest), first) for run, first in starts.items()]


def _torch_shape(shape: tuple[int, ...], change: Change) -> tuple[int, ...]:
    return change.to_torch(np.broadcast_to(np.zeros(()), shape)).shape


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
