"""Runs of equal blocks, stacked along a leading axis, and what their layers hold."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jmamba.types import ByRun, LayerCache, Recurrence


def stack_layers(
    make_block: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs
) -> Any:
    """Return a module whose parameters have a leading axis of `count` layers."""
    make = nnx.vmap(make_block, in_axes=(0,), out_axes=0)
    return nnx.split_rngs(splits=count)(make)(rngs)


def take_layers(blocks: Any, part: slice | int) -> Any:
    """Return some of the stacked blocks as a stack, or one of them by its number."""
    graphdef, state = nnx.split(blocks)
    return nnx.merge(graphdef, jax.tree.map(lambda x: x[part], state))


class Merge(NamedTuple):
    """Makes a block of its parameters; equal ones compile once."""

    graphdef: nnx.GraphDef

    def __call__(self, state: Any) -> Any:
        """Return the block."""
        return nnx.merge(self.graphdef, state)


class Run(NamedTuple):
    """Consecutive layers of one kind.

    Attributes:
      layers: which of a model's they are.
      parameters: of all of them, stacked along a leading axis.
      open: makes a block of the parameters of one layer.
    """

    layers: slice
    parameters: Any
    open: Callable[[Any], Any]

    @classmethod
    def of(cls, blocks: nnx.Module, layers: slice) -> "Run":
        """Return stacked blocks as a run."""
        graphdef, state = nnx.split(blocks)
        return cls(layers, state, Merge(graphdef))

    def __contains__(self, layer: object) -> bool:
        """Say whether a layer, by its number in the model, is one of them."""
        return layer in range(self.layers.start, self.layers.stop)

    @property
    def is_recurrent(self) -> bool:
        """Whether what its mixers remember is the state of a recurrence."""
        return self.open(self.parameters).mixer.cache_kind is LayerCache

    @property
    def is_selective(self) -> bool:
        """Whether its mixers project to a `Recurrence`, whose steps only decay."""
        return self.open(self.parameters).mixer.recurs_as is Recurrence

    def block(self, index: int) -> Any:
        """Return one block, by its number in the model."""
        place = index - self.layers.start
        return self.open(jax.tree.map(lambda x: x[place], self.parameters))


def cut_runs(runs: Sequence[Run], start: int, stop: int) -> list[Run]:
    """Return layers start to stop - 1 as runs."""
    kept = []
    for layers, parameters, open_block in runs:
        first, last = max(start, layers.start), min(stop, layers.stop)
        if first >= last:
            continue
        if (first, last) != (layers.start, layers.stop):
            part = slice(first - layers.start, last - layers.start)
            parameters = jax.tree.map(lambda x, part=part: x[part], parameters)
        kept.append(Run(slice(first, last), parameters, open_block))
    return kept


def cut_by_runs(own: Any, layers: Sequence[slice]) -> list[Any]:
    """Return the part of each run of what has a leading axis of layers.

    Args:
      own: a pytree of arrays, and of what `join_layers` put together.
      layers: of each run; the first layer is the first of `own`.
    """
    if len(layers) == 1:
        return [own]
    first = layers[0].start

    def part(number: int, x: Any) -> Any:
        if isinstance(x, ByRun):
            return x.parts[number]
        return x[layers[number].start - first : layers[number].stop - first]

    return [
        jax.tree.map(
            lambda x, number=number: part(number, x),
            own,
            is_leaf=lambda x: isinstance(x, ByRun),
        )
        for number in range(len(layers))
    ]


def join_layers(parts: Sequence[Any]) -> Any:
    """Return what consecutive runs of layers made, stacked along the leading axis.

    Where runs made other trees or shapes, there is a `ByRun` of them; of a tuple each
    element is joined by itself.

    Args:
      parts: of each run.

    Examples:
      >>> ones = jnp.ones((2, 3))
      >>> join_layers([ones, ones]).shape
      (4, 3)
      >>> both, shared = join_layers([(ones, ones), (ones[:, :1], ones)])
      >>> type(both).__name__, shared.shape
      ('ByRun', (4, 3))
    """
    if len(parts) == 1:
        return parts[0]
    if len({_kind(part) for part in parts}) == 1:
        return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
    if all(type(part) is tuple and len(part) == len(parts[0]) for part in parts):
        return tuple(map(join_layers, zip(*parts, strict=True)))
    return ByRun(tuple(parts))


def _kind(part: Any) -> tuple:
    """Return what parts must have in common to be stacked."""
    leaves, tree = jax.tree.flatten(part)
    return tree, tuple((x.shape[1:], x.dtype) for x in leaves)
