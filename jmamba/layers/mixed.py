"""Stacks of blocks of several kinds: runs of equal layers, and what these hold."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jmamba.layers.places import Place
from jmamba.layers.runs import Run, join_layers, stack_layers

WIDTH = frozenset("blm")
"""Letters of what is as wide as the residual stream, whatever the kind of a layer."""


class KindRun(NamedTuple):
    """Consecutive layers of one kind: what their parameters are under, and which."""

    name: str
    kind: str
    layers: slice


def runs_of_kinds(kinds: Sequence[str]) -> tuple[KindRun, ...]:
    """Return the runs of equal layers.

    Args:
      kinds: of all layers.

    Examples:
      >>> [run.layers for run in runs_of_kinds(["a", "a", "b"])]
      [slice(0, 2, None), slice(2, 3, None)]
    """
    runs, start = [], 0
    for number, (kind, group) in enumerate(groupby(kinds)):
        stop = start + len(list(group))
        runs.append(KindRun(f"run{number}", kind, slice(start, stop)))
        start = stop
    return tuple(runs)


class MixedStack(nnx.Module):
    """Blocks of several kinds; each run of equal ones is stacked, and compiles once.

    Args:
      make_block: called as make_block(kind, rngs).
      kinds: of all layers.
      rngs: source of the initial weights.
    """

    def __init__(
        self,
        make_block: Callable[[str, nnx.Rngs], nnx.Module],
        kinds: Sequence[str],
        rngs: nnx.Rngs,
    ):
        self.kinds = tuple(kinds)
        for name, kind, layers in runs_of_kinds(kinds):
            count = layers.stop - layers.start
            setattr(self, name, stack_layers(partial(make_block, kind), count, rngs))

    def runs(self) -> list[Run]:
        """Return the runs of layers, for the walk."""
        return [
            Run.of(getattr(self, name), layers)
            for name, _, layers in runs_of_kinds(self.kinds)
        ]

    @property
    def places(self) -> tuple[Place, ...]:
        """Places that all layers have, of one width whatever their kind.

        What each kind has of its own can be edited and read by `run_layers`.
        """
        each = self._places_of_kinds()
        common = [{place.name for place in places} for places in each[1:]]
        return tuple(
            place
            for place in each[0]
            if place.axes and WIDTH.issuperset(place.axes)
            if all(place.name in names for names in common)
        )

    @property
    def places_of_some(self) -> tuple[Place, ...]:
        """Places that some layers have and others have not."""
        common = {place.name for place in self.places}
        found = {one.name: one for places in self._places_of_kinds() for one in places}
        return tuple(place for name, place in found.items() if name not in common)

    def _places_of_kinds(self) -> list[tuple[Place, ...]]:
        return [getattr(self, run.name).places for run in runs_of_kinds(self.kinds)]

    def empty_cache(self, batch: int, dtype: Any) -> Any:
        """Return what the layers remember before the first token."""
        parts = []
        for name, _, layers in runs_of_kinds(self.kinds):
            one = getattr(self, name).mixer.empty_cache(batch, dtype)
            count = layers.stop - layers.start
            parts.append(
                jax.tree.map(lambda x, n=count: jnp.zeros((n, *x.shape), x.dtype), one)
            )
        return join_layers(parts)
