"""Where a mixer of Vision Mamba sorts its tokens, and what it learns to sort by."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.layers.norm import Precision
from jmamba.layers.runs import Run, take_layers
from jmamba.layers.selection import Selection
from jmamba.refinements.permutations import (
    keep_place,
    normalise_scores,
    shuffled_order,
    soft_sort,
)
from jmamba.refinements.sorting_choices import SortingChoices

Tau = float | Float[Array, ""] | None
"""A temperature in place of the configuration's, such as `dynamics.anneal_tau`'s."""


class Sorting(nnx.Module):
    """The weights of importance scores, K of both directions.

        s[l] = K . (S_delta u[l]);  P = soft_sort(s);  the recurrence reads P u

    Each direction has scores of its own, and its most important tokens come last in its
    own reading order. The class token stays at its place and is not scored: only
    patches are sorted. Gates and step sizes are made anew from P u. In the official
    mode the k-th token of the new order then meets the gate, and is added to the
    residual stream, of the k-th token in the old one; in the corrected mode P^T puts
    outputs back first.

    A model's has a leading axis, one entry per layer that sorts; a mixer's has none. K
    is None for the random control.

    References:
      Vo et al., arXiv 2410.03292, section 5.2.
    """

    letters: ClassVar[Mapping[str, str]] = {"forward": "sd", "backward": "sd"}

    def __init__(
        self,
        config: SortingChoices,
        channels: int,
        count: int,
        *,
        precision: Precision,
        rngs: nnx.Rngs,
    ):
        self.config = config
        shape, bound = (count, channels), channels**-0.5

        def draw() -> nnx.Param | None:
            if config.reorder_by == "random":
                return None
            dtype = precision.param
            K = jax.random.uniform(rngs.params(), shape, dtype, -bound, bound)
            return nnx.Param(K)

        self.forward, self.backward = draw(), draw()

    def pick(self, layers: slice) -> "Sorting":
        """Return the weights of some of the layers."""
        return take_layers(self, layers)

    def check(self) -> None:
        """Return: the order is known."""

    @property
    def restores(self) -> bool:
        """Whether outputs go back to their tokens before they meet the gate."""
        return self.config.reorder == "corrected"

    def rank(
        self,
        selection: Selection,
        u: Float[Array, "b l d"],
        *,
        is_backward: bool,
        tau: Tau = None,
    ) -> Float[Array, "b l l"]:
        """Return the matrix that one direction sorts its tokens with.

        Args:
          selection: of the direction.
          u: inputs of its recurrence, unsorted, in its reading order.
          is_backward: which direction it is.
          tau: a temperature in place of the configuration's.
        """
        config, length = self.config, u.shape[1]
        place = class_place(config, length, is_backward=is_backward)
        others = length if place is None else length - 1
        K = self.backward if is_backward else self.forward
        if K is None:
            P = jnp.asarray(shuffled_order(others, config.reorder_seed), u.dtype)
            return jnp.broadcast_to(keep_place(P, place), (len(u), length, length))
        scores = score_tokens(selection, u, K[...])
        if place is not None:
            scores = jnp.concatenate([scores[:, :place], scores[:, place + 1 :]], 1)

        def sort(scores):
            scores = normalise_scores(scores) if config.reorder_normalise else scores
            own = config.reorder_tau if tau is None else tau
            return soft_sort(scores, tau=own, is_hard=config.reorder_hard)

        return keep_place(jax.vmap(sort)(scores), place)

    def move(
        self, P: Float[Array, "b l l"], x: Float[Array, "b l d"]
    ) -> Float[Array, "b l d"]:
        """Return P x, exactly if P is a permutation."""
        moved = jnp.einsum("bkl,bld->bkd", P, x.astype(P.dtype), precision="highest")
        return moved.astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class SameOrder:
    """The order of a layer that does not sort, in a model of which some layers do."""

    restores: bool = False

    def check(self) -> None:
        """Return: the order is known."""

    def rank(
        self,
        selection: Selection,
        u: Float[Array, "b l d"],
        *,
        is_backward: bool,
        tau: Tau = None,
    ) -> Float[Array, "b l l"]:
        """Return the identity."""
        batch, length, _ = u.shape
        dtype = selection.dt_bias[...].dtype
        same = jnp.eye(length, dtype=dtype)
        return jnp.broadcast_to(same, (batch, length, length))

    def move(
        self, P: Float[Array, "b l l"], x: Float[Array, "b l d"]
    ) -> Float[Array, "b l d"]:
        """Return x."""
        return x


@dataclasses.dataclass(frozen=True)
class UnknownOrder:
    """The order of the stack of all layers, of which some sort and some do not."""

    restores: bool = False

    def check(self) -> None:
        """Raise.

        Raises:
          ValueError: always.
        """
        raise ValueError(
            "This is the stack of all layers, of which some sort their tokens: "
            "take one of them, model.layer(i), or run the runs of model.runs()."
        )

    def rank(self, *args: Any, **context: Any) -> Float[Array, "b l l"]:
        """Raise, as `check` does."""
        self.check()
        raise AssertionError

    def move(
        self, P: Float[Array, "b l l"], x: Float[Array, "b l d"]
    ) -> Float[Array, "b l d"]:
        """Return x."""
        return x


def score_tokens(
    selection: Selection, u: Float[Array, "b l d"], K: Float[Array, "d"]
) -> Float[Array, "b l"]:
    """Return K . (S_delta u[l]) of each token, in the dtype of the step sizes."""
    wide = selection.dt_bias[...].dtype
    dt = selection.W_x()[:, : selection.sizes.dt_rank].astype(wide)
    weights = dt @ (selection.dt_proj.kernel[...].astype(wide) @ K.astype(wide))
    return jnp.einsum("bld,d->bl", u.astype(wide), weights, precision="highest")


def class_place(
    config: SortingChoices, length: int, *, is_backward: bool
) -> int | None:
    """Return where a direction reads the class token; None if there is none."""
    place = config.class_position(length - 1)
    if place is None:
        return None
    return length - 1 - place if is_backward else place


def split_runs(
    blocks: Any, count: int, sorting: Sorting | None, chosen: Sequence[int]
) -> list[Run]:
    """Return a stack of layers as runs: of each, all layers sort or none does.

    Args:
      blocks: the stack, whose mixers do not know whether they sort.
      count: how many layers.
      sorting: of the layers that sort, in their order; None if none does.
      chosen: which layers sort.
    """
    if sorting is None:
        return [Run.of(blocks, slice(0, count))]
    edges = [i for i in range(1, count) if (i in chosen) != (i - 1 in chosen)]
    runs, done = [], 0
    for start, stop in pairwise([0, *edges, count]):
        part = take_layers(blocks, slice(start, stop))
        part.mixer.order = SameOrder()
        if start in chosen:
            mine = sorting.pick(slice(done, done + stop - start))
            part.mixer.order = nnx.data(mine)  # was static
            done += stop - start
        runs.append(Run.of(part, slice(start, stop)))
    return runs
