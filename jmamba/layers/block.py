"""A residual block around any mixer, with or without a feed-forward layer."""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from jmamba.layers.feed_forward import FeedForward
from jmamba.layers.freezing import NOTHING, Frozen
from jmamba.layers.mixer import Mixer, Projection
from jmamba.layers.norm import NoNorm, RMSNorm
from jmamba.layers.places import PASS_BY, Place, Watch
from jmamba.layers.recurrence import watch_parameters
from jmamba.ops.sharding import hold
from jmamba.types import Recurrence

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
    recurrence: Any
    cache: Any
    seen: Mapping[str, Any] = MappingProxyType({})


class Block(nnx.Module):
    """One residual block: x + mixer(norm(x)), and a feed-forward layer behind it.

    Args:
      norm: in front of the mixer.
      mixer: of any kind.
      feed_forward: reads what comes of that, and is added likewise: a `FeedForward`, or
        a layer of experts; None for none.
      scale: what is multiplied with all that is added to the residual stream.
    """

    def __init__(
        self,
        norm: RMSNorm | NoNorm,
        mixer: Mixer,
        *,
        feed_forward: FeedForward | Any = None,
        scale: float = 1.0,
    ):
        self.norm = norm
        self.mixer = mixer
        self.feed_forward, self.scale = feed_forward, scale

    @property
    def is_bare(self) -> bool:
        """Whether it only adds what its mixer puts out."""
        return self.feed_forward is None and self.scale == 1.0

    @property
    def places(self) -> tuple[Place, ...]:
        """Where arrays pass, in the order of the forward pass."""
        *before, last = BEHIND
        own = () if self.feed_forward is None else self.feed_forward.places
        return (*BEFORE, *self.mixer.places, *before, *own, last)

    def __call__(
        self,
        x: Float[Array, "b l m"],
        *,
        cache: Any = None,
        segment_ids: Any = None,
        frozen: Frozen = NOTHING,
        edit: Mapping[str, Callable[..., Any]] = MappingProxyType({}),
        show: Collection[str] = (),
        remember: Int[Array, "b"] | None = None,
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
          remember: tokens per row that the cache is to hold, if not all: those behind
            are read, and forgotten.
          **context: further keywords of the mixer's `project`.
        """
        if segment_ids is not None:
            context["segment_ids"] = segment_ids
        kept, state = self.mixer.split_cache(cache)
        at = Watch(edit, show)

        def named(place, value):
            value = at(place, value)
            return jax.tree.map(lambda x: checkpoint_name(x, place), value)

        x = before = named("residual_in", hold(x, "blm"))
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
        x = self.add(x, named("output", out), frozen=frozen, at=at)
        x = named("residual_out", x)
        if remember is not None:  # the products are the same, and done once
            projection = self.project(before, kept=kept, lengths=remember, **context)
            _, last_state = self.mixer.run(projection.recurrence, state=state)
        cache = None
        if last_state is not None:
            cache = self.mixer.cache_kind(projection.kept, last_state)
        return BlockOutput(x, recurrence, cache, at.seen)

    def add(
        self,
        x: Float[Array, "b l m"],
        out: Float[Array, "b l m"],
        *,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> Float[Array, "b l m"]:
        """Return the residual stream with a mixer's output and the feed-forward layer.

        Args:
          x: the residual stream entering the block.
          out: what the mixer puts out.
          frozen: what derivatives take for constants.
          at: who edits and reads what passes.
        """
        x = x + self._scaled(out, x.dtype)
        if self.feed_forward is None:
            return x
        return x + self._scaled(self.feed_forward(x, frozen=frozen, at=at), x.dtype)

    def _scaled(self, out, dtype):
        out = out.astype(dtype)
        return out if self.scale == 1.0 else out * jnp.asarray(self.scale, dtype)

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
        out, _ = self.mixer.mix(recurrence, frozen=frozen)
        if self.is_bare:
            return out
        out = self._scaled(out, x.dtype)
        if self.feed_forward is None:
            return out
        return out + self._scaled(self.feed_forward(x + out, frozen=frozen), x.dtype)
