"""A residual block around any mixer."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx
from jaxtyping import Array, Float

from jmamba.layers.freezing import NOTHING, Frozen
from jmamba.layers.mixer import Mixer, Projection
from jmamba.layers.norm import RMSNorm
from jmamba.ops.sharding import hold
from jmamba.types import AnyRecurrence, LayerCache


class BlockOutput(NamedTuple):
    """The residual stream after a block, and what the block made on the way."""

    x: Float[Array, "b l m"]
    recurrence: AnyRecurrence
    cache: LayerCache | None


class Block(nnx.Module):
    """One residual block: x + mixer(norm(x)).

    Args:
      norm: in front of the mixer.
      mixer: of any kind.
    """

    def __init__(self, norm: RMSNorm, mixer: Mixer):
        self.norm = norm
        self.mixer = mixer

    def __call__(
        self,
        x: Float[Array, "b l m"],
        *,
        cache: LayerCache | None = None,
        segment_ids: Any = None,
        frozen: Frozen = NOTHING,
        edit: Callable[[str, Any], Any] = lambda place, value: value,
        **context: Any,
    ) -> BlockOutput:
        """Return x + mixer(norm(x)) with everything an analysis needs.

        Args:
          x: the residual stream.
          cache: what the layer remembers of earlier tokens.
          segment_ids: packed sequences.
          frozen: what derivatives take for constants.
          edit: called as edit(place, value) -> value at each of `stack.PLACES`.
          **context: further keywords of the mixer's `project`.
        """
        if segment_ids is not None:
            context["segment_ids"] = segment_ids
        kept, state = (None, None) if cache is None else cache
        x = edit("residual_in", hold(x, "blm"))
        projection = self.project(x, kept=kept, frozen=frozen, **context)
        recurrence = edit("recurrence", projection.recurrence)
        y, last_state = self.mixer.run(
            recurrence,
            state=edit("state", state),
            segment_ids=segment_ids,
            frozen=frozen,
        )
        out = self.mixer.project_out(edit("gated", y), frozen=frozen)
        out = edit("output", out)
        x = edit("residual_out", x + out.astype(x.dtype))
        has_cache = last_state is not None
        cache = LayerCache(projection.kept, last_state) if has_cache else None
        return BlockOutput(x, recurrence, cache)

    def project(
        self,
        x: Float[Array, "b l m"],
        *,
        over: Float[Array, "b l m"] | None = None,
        frozen: Frozen = NOTHING,
        **context: Any,
    ) -> Projection:
        """Return what the mixer projects the normalised residual stream to.

        Args:
          x: the residual stream.
          over: what the norm's RMS is of, if not of x.
          frozen: what derivatives take for constants.
          **context: further keywords of the mixer's `project`.
        """
        n = self.norm(x, over=over, frozen=frozen.norm)
        return self.mixer.project(n, frozen=frozen, **context)

    def increment(
        self, x: Float[Array, "b l m"], *, frozen: Frozen = NOTHING
    ) -> Float[Array, "b l m"]:
        """Return what the block adds to the residual stream."""
        recurrence = self.project(x, frozen=frozen).recurrence
        return self.mixer.mix(recurrence, frozen=frozen)[0]
