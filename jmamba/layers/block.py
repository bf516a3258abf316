"""A residual block around any mixer."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
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
        edit: Mapping[str, Callable[[Any], Any]] = MappingProxyType({}),
        **context: Any,
    ) -> BlockOutput:
        """Return x + mixer(norm(x)) with everything an analysis needs.

        Values are named for policies of rematerialisation after their places.

        Args:
          x: the residual stream.
          cache: what the layer remembers of earlier tokens.
          segment_ids: packed sequences.
          frozen: what derivatives take for constants.
          edit: some of `stack.PLACES` -> edit(value) -> value.
          **context: further keywords of the mixer's `project`.
        """
        if segment_ids is not None:
            context["segment_ids"] = segment_ids
        kept, state = (None, None) if cache is None else cache

        def at(place, value):
            value = edit[place](value) if place in edit else value
            return jax.tree.map(lambda x: checkpoint_name(x, place), value)

        x = at("residual_in", hold(x, "blm"))
        projection = self.project(x, kept=kept, frozen=frozen, **context)
        recurrence = at("recurrence", projection.recurrence)
        y, last_state = self.mixer.run(
            recurrence,
            state=at("state", state),
            segment_ids=segment_ids,
            frozen=frozen,
            edit=edit.get("y"),
        )
        out = self.mixer.project_out(at("gated", y), frozen=frozen)
        out = at("output", out)
        x = at("residual_out", x + out.astype(x.dtype))
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
