"""The mixer of Vision Mamba, which reads tokens in both directions."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.layers.freezing import NOTHING, Frozen, call_linear, stop_gradient
from jmamba.layers.mamba import AROUND, HALVES, make_in_proj, make_out_proj
from jmamba.layers.mixer import GATE, OpenMixer, Projection
from jmamba.layers.norm import Precision
from jmamba.layers.places import PASS_BY, Place, Watch
from jmamba.layers.recurrence import INSIDE
from jmamba.layers.selection import SELECTED, GateMatrices, MakeGates, Selection
from jmamba.layers.sizes import MixerSizes
from jmamba.ops.sharding import split_halves
from jmamba.types import AnyRecurrence, BidirectionalRecurrence, Orders


@runtime_checkable
class TokenOrder(Protocol):
    """The order in which a mixer's recurrences read their tokens."""

    def check(self) -> None:
        """Raise unless there is such an order, before anything is computed."""
        ...

    @property
    def restores(self) -> bool:
        """Whether outputs go back to their tokens before they meet the gate."""
        ...

    def rank(
        self,
        selection: Selection,
        u: Float[Array, "b l d"],
        *,
        is_backward: bool,
        **context: Any,
    ) -> Float[Array, "b l l"]:
        """Return the matrix P that sorts the tokens of one direction as it reads."""
        ...

    def move(
        self, P: Float[Array, "b l l"], x: Float[Array, "b l d"]
    ) -> Float[Array, "b l d"]:
        """Return P x."""
        ...


DIRECTIONS = {"forward": False, "backward": True}
"""The directions of a layer, and whether each reads from the last token."""


class BidirectionalMixer(OpenMixer):
    """Two selections, one per direction, between common projections.

        x, z = split(W_in x)
        out = W_out (run(forward(x, z)) + flip(run(backward(flip(x), flip(z))))) / 2

    where `run` is recurrence, skip and gate, and `/ 2` is there if `scale` says so.

    Args:
      sizes: of the mixer.
      scale: what the sum of both directions is multiplied with.
      order: what sorts the tokens of each direction before its recurrence; None for
        the order they have.
      make_gates: of `Selection`.
      precision: dtypes.
      rngs: source of the initial weights.

    References:
      Zhu et al., "Vision Mamba", arXiv 2401.09417, section 3.3, algorithm 1.
    """

    places: ClassVar[tuple[Place, ...]] = (
        *HALVES,
        *(
            place.under(direction, is_mirrored=is_mirrored)
            for direction, is_mirrored in DIRECTIONS.items()
            for place in (*SELECTED, *INSIDE, GATE)
        ),
    )
    letters: ClassVar[Mapping[str, str]] = AROUND

    def __init__(
        self,
        sizes: MixerSizes,
        *,
        scale: float = 1.0,
        order: TokenOrder | None = None,
        make_gates: MakeGates | None = None,
        precision: Precision,
        rngs: nnx.Rngs,
    ):
        self.in_proj = make_in_proj(sizes, precision=precision, rngs=rngs)
        self.forward, self.backward = (
            Selection(sizes, make_gates=make_gates, precision=precision, rngs=rngs)
            for _ in range(2)
        )
        self.out_proj = make_out_proj(sizes, precision=precision, rngs=rngs)
        self.scale = scale
        self.order = order
        self.window = sizes.d_conv

    def project(
        self,
        x: Float[Array, "b l m"],
        *,
        kept: None = None,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
        **context: Any,
    ) -> Projection:
        """Make the selective parameters of both directions.

        Args:
          x: normalised input.
          kept: None, as images are read at once.
          frozen: what derivatives take for constants; with the selection the order of
            tokens.
          at: who edits and reads what passes.
          **context: what the order of tokens depends on.

        Returns:
          Recurrences, of which that of `backward` runs from the last token to the
          first, and those of a mixer that sorts stand in the order of its P.
        """
        if self.order is not None:
            self.order.check()
        x = call_linear(self.in_proj, x, "in_proj", frozen)
        x, z = split_halves(x, "bld")
        x, z = at("x", x), at("z", z)
        ahead, back = _sides(at)
        sides = (self.forward, x, z, ahead), (self.backward, flip(x), flip(z), back)
        if self.order is None:
            made = [
                side.select(x, z, frozen=frozen, at=here) for side, x, z, here in sides
            ]
            both = BidirectionalRecurrence(*(one.recurrence for one in made))  # type: ignore[arg-type]
            convolutions = (*made[0].convolutions, *made[1].convolutions)
            return Projection(both, convolutions=convolutions)
        recurrences, orders = [], []
        for side, x, z, here in sides:
            u, _ = side.activate(x, frozen=frozen, at=here)
            is_backward = side is self.backward
            P = self.order.rank(side, u, is_backward=is_backward, **context)
            P = stop_gradient(P) if frozen.selection else P
            u = self.order.move(P, u)
            recurrences.append(side.parametrise(u, z, frozen=frozen, at=here))
            orders.append(P)
        forward, backward = recurrences
        both = BidirectionalRecurrence(forward, backward, Orders(orders[0], orders[1]))
        return Projection(both)

    def run(
        self,
        recurrence: AnyRecurrence,
        *,
        state: Any = None,
        segment_ids: Any = None,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> tuple[Float[Array, "b l d"], None]:
        """Return what the output projection reads: the sum of both directions, scaled.

        A layer that sorts puts outputs back before they meet their gates. An edit of
        "y" gets the outputs of both directions as a pair, that of `backward` from the
        last token to the first; one of "forward.y" or "backward.y" its own, in the
        order of the text.
        """
        assert isinstance(recurrence, BidirectionalRecurrence)
        orders = recurrence.orders or (None, None)
        both = (recurrence.forward, recurrence.backward)
        sides = list(zip(both, orders, _sides(at), strict=True))
        if at.asks("y"):
            y = at("y", tuple(self._recur_side(*side) for side in sides))
            forward, backward = (
                self.gate(part, one, frozen=frozen, at=here)
                for part, (one, _, here) in zip(y, sides, strict=True)
            )
        else:
            forward, backward = (self._run_side(*side, frozen) for side in sides)
        y = forward + flip(backward)
        return y * jnp.asarray(self.scale, y.dtype), None

    def _run_side(self, recurrence, P, at: Watch, frozen: Frozen):
        if P is None or self.order is None or not self.order.restores:
            return super().run(recurrence, frozen=frozen, at=at)[0]
        y = self._recur_side(recurrence, P, at)
        return self.gate(y, recurrence, frozen=frozen, at=at)

    def _recur_side(self, recurrence, P, at: Watch):
        y, _ = self.recur_watched(recurrence, at)
        if P is None or self.order is None or not self.order.restores:
            return y
        return self.order.move(jnp.swapaxes(P, 1, 2), y)  # P^T: b k l -> b l k

    def project_out(
        self, y: Float[Array, "b l d"], *, frozen: Frozen = NOTHING
    ) -> Float[Array, "b l m"]:
        """Return W_out y."""
        return call_linear(self.out_proj, y, "out_proj", frozen)

    def gate_matrices(self) -> tuple[GateMatrices, ...]:
        """Return the matrices of both selections."""
        return (*self.forward.gate_matrices(), *self.backward.gate_matrices())

    def empty_cache(self, batch: int, dtype: Any) -> None:
        """Return None: images are read at once."""


def _sides(at: Watch) -> tuple[Watch, ...]:
    """Return a watch over each direction."""
    return tuple(
        at.under(direction, is_mirrored=is_mirrored)
        for direction, is_mirrored in DIRECTIONS.items()
    )


def flip(x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
    """Return a sequence in the other order."""
    return jnp.flip(x, axis=1)
