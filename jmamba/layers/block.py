"""A residual block around any mixer."""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from jmamba.layers.freezing import NOTHING, Frozen
from jmamba.layers.mixer import Mixer, Projection
from jmamba.layers.norm import RMSNorm
from jmamba.layers.places import PASS_BY, Place, Watch
from jmamba.layers.recurrence import watch_parameters
from jmamba.ops.sharding import hold
from jmamba.types import AnyRecurrence, LayerCache, Recurrence

BEFORE = (
    Place(
        "residual_in",
        "blm",
        "the residual stream entering the block",
        ("hook_resid_pre",),
        ("hook_resid_pre", "hook_in"),
    ),
    Place(
        "input",
        "blm",
        "what the norm reads of it",
        ("hook_layer_input",),
        ("norm.hook_in",),
    ),
    Place(
        "normalised",
        "blm",
        "the normalised input",
        ("hook_normalized_input",),
        ("norm.hook_out", "mixer.in_proj.hook_in"),
    ),
)
"""Places of every block in front of its mixer's own."""

BEHIND = (
    Place(
        "gated",
        "bld",
        "what the output projection reads",
        ("hook_after_skip",),
        ("mixer.out_proj.hook_in",),
    ),
    Place(
        "output",
        "blm",
        "what the mixer puts out",
        ("hook_out_proj",),
        ("mixer.out_proj.hook_out", "mixer.hook_out"),
    ),
    Place(
        "residual_out",
        "blm",
        "the residual stream leaving the block",
        ("hook_resid_post",),
        ("hook_resid_post", "hook_out"),
    ),
)
"""Places of every block behind its mixer's own."""

TREES = (
    Place("recurrence", "", "all that the mixer projects its input to"),
    Place("state", "", "the recurrence's state before the first token"),
    Place("y", "", "what the recurrences of both directions put out"),
)
"""Places of every block where more passes than one array."""


class BlockOutput(NamedTuple):
    """The residual stream after a block, and what the block made on the way.

    `seen` is what was asked for by name.
    """

    x: Float[Array, "b l m"]
    recurrence: AnyRecurrence
    cache: LayerCache | None
    seen: Mapping[str, Any] = MappingProxyType({})


class Block(nnx.Module):
    """One residual block: x + mixer(norm(x)).

    Args:
      norm: in front of the mixer.
      mixer: of any kind.
    """

    def __init__(self, norm: RMSNorm, mixer: Mixer):
        self.norm = norm
        self.mixer = mixer

    @property
    def places(self) -> tuple[Place, ...]:
        """Where arrays pass, in the order of the forward pass."""
        return (*BEFORE, *self.mixer.places, *BEHIND)

    def __call__(
        self,
        x: Float[Array, "b l m"],
        *,
        cache: LayerCache | None = None,
        segment_ids: Any = None,
        frozen: Frozen = NOTHING,
        edit: Mapping[str, Callable[..., Any]] = MappingProxyType({}),
        show: Collection[str] = (),
        **context: Any,
    ) -> BlockOutput:
        """Return x + mixer(norm(x)) with everything an analysis needs.

        Values are named for policies of rematerialisation after their places.

        Args:
          x: the residual stream.
          cache: what the layer remembers of earlier tokens.
          segment_ids: packed sequences.
          frozen: what derivatives take for constants.
          edit: some of `stack.PLACES` and of the block's `places` -> edit(value) ->
            value.
          show: which of them the output holds as `seen`, after their edits.
          **context: further keywords of the mixer's `project`.
        """
        if segment_ids is not None:
            context["segment_ids"] = segment_ids
        kept, state = (None, None) if cache is None else cache
        at = Watch(edit, show)

        def named(place, value):
            value = at(place, value)
            return jax.tree.map(lambda x: checkpoint_name(x, place), value)

        x = named("residual_in", hold(x, "blm"))
        projection = self.project(x, kept=kept, frozen=frozen, at=at, **context)
        recurrence = named("recurrence", projection.recurrence)
        y, last_state = self.mixer.run(
            recurrence,
            state=named("state", state),
            segment_ids=segment_ids,
            frozen=frozen,
            at=at,
        )
        out = self.mixer.project_out(named("gated", y), frozen=frozen)
        out = named("output", out)
        x = named("residual_out", x + out.astype(x.dtype))
        has_cache = last_state is not None
        cache = LayerCache(projection.kept, last_state) if has_cache else None
        return BlockOutput(x, recurrence, cache, at.seen)

    def project(
        self,
        x: Float[Array, "b l m"],
        *,
        over: Float[Array, "b l m"] | None = None,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
        **context: Any,
    ) -> Projection:
        """Return what the mixer projects the normalised residual stream to.

        Args:
          x: the residual stream.
          over: what the norm's RMS is of, if not of x.
          frozen: what derivatives take for constants.
          at: who edits and reads what passes.
          **context: further keywords of the mixer's `project`.
        """
        n = self.norm(at("input", x), over=over, frozen=frozen.norm)
        n = at("normalised", n)
        if self.mixer.is_open:
            return self.mixer.project(n, frozen=frozen, at=at, **context)
        projection = self.mixer.project(n, frozen=frozen, **context)
        if not at.asks(*(place.name for place in self.mixer.places)):
            return projection
        assert isinstance(projection.recurrence, Recurrence)  # two need an open mixer
        watched = watch_parameters(projection.recurrence, at)
        return projection._replace(recurrence=watched)

    def increment(
        self, x: Float[Array, "b l m"], *, frozen: Frozen = NOTHING
    ) -> Float[Array, "b l m"]:
        """Return what the block adds to the residual stream."""
        recurrence = self.project(x, frozen=frozen).recurrence
        return self.mixer.mix(recurrence, frozen=frozen)[0]
