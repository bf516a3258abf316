"""The seam: what a layer says of itself, and all that an analysis asks of it."""

from typing import Any, ClassVar, NamedTuple

from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.layers import freezing
from jmamba.layers.freezing import NOTHING, Frozen
from jmamba.layers.places import PASS_BY, Place, Watch
from jmamba.layers.recurrence import (
    INSIDE,
    PARAMETERS,
    RecurrenceOutput,
    run_recurrence,
    watch_recurrence,
)
from jmamba.types import LayerCache, Recurrence


class Convolution(NamedTuple):
    """How a recurrence's inputs were made: u = silu(conv(x) + bias).

    Attributes:
      x: what the convolution reads.
      taps: its weights, the last of which meets the token itself.
      bias: its bias; None for none.
    """

    x: Float[Array, "*s b l d"]
    taps: Float[Array, "*s d k"]
    bias: Float[Array, "*s d"] | None


GATE = Place("gate", "bld", "silu(z), which gates the recurrence's output")
"""The gate, where `Mixer.gate` shows it."""


class Projection(NamedTuple):
    """What a mixer projects its input to.

    Attributes:
      recurrence: of one direction or two, a `GatedRecurrence` or `SoftmaxAttention`.
      kept: what later tokens need besides the recurrence's state.
      convolutions: how u was made in each direction; () where u is a projection of its
        own token alone.
    """

    recurrence: Any
    kept: Any = None
    convolutions: tuple[Convolution, ...] = ()


class Mixer(nnx.Module):
    """A layer's mixing of tokens: it projects, it recurs, and it is finished.

        recurrence = project(x);  y = recur(recurrence);  out = finish(y, recurrence)

    A kind of layer defines `project` and `project_out`, and `gate` where its output is
    not simply gated by silu(z). Everything that analyses need follows from these.

    References:
      Gu & Dao, "Mamba", arXiv 2312.00752, figure 3.
    """

    window: int = 1
    """Tokens that the projection of one token reaches: d_conv where there is one."""

    scale: float = 1.0
    """What the sum of a mixer's directions is multiplied with."""

    places: ClassVar[tuple[Place, ...]] = (*PARAMETERS, *INSIDE)
    """Where arrays pass in the mixer, in the order of its forward pass."""

    is_open: ClassVar[bool] = False
    """Whether it is an `OpenMixer`."""

    recurs_as: ClassVar[Any] = Recurrence
    """What it projects to: a `Recurrence` of each direction, or something else."""

    cache_kind: ClassVar[Any] = LayerCache
    """Makes a cache of what `project` kept and the state that `run` returned."""

    def project(
        self,
        x: Float[Array, "b l m"],
        *,
        kept: Any = None,
        frozen: Frozen = NOTHING,
        **context: Any,
    ) -> Projection:
        """Make a recurrence of the normalised input.

        Args:
          x: normalised input.
          kept: what an earlier projection kept, to go on from it.
          frozen: what derivatives take for constants.
          **context: what a kind of model knows of its tokens, such as `lengths` and
            `segment_ids` of texts; `at` of a mixer that is open.
        """
        raise NotImplementedError

    def recur(
        self,
        recurrence: Recurrence,
        *,
        state: Float[Array, "b d n"] | None = None,
        segment_ids: Int[Array, "b l"] | None = None,
    ) -> RecurrenceOutput:
        """Return what a recurrence puts out, and its state; see `run_recurrence`."""
        return run_recurrence(recurrence, state=state, segment_ids=segment_ids)

    def gate(
        self,
        y: Float[Array, "b l d"],
        recurrence: Recurrence,
        *,
        frozen: Frozen = NOTHING,
    ) -> Float[Array, "b l d"]:
        """Return what the output projection reads: y silu(z), or y without a gate."""
        return y if recurrence.z is None else freezing.gate(y, recurrence.z, frozen)

    def project_out(
        self, y: Float[Array, "b l d"], *, frozen: Frozen = NOTHING
    ) -> Float[Array, "b l m"]:
        """Return the mixer's output of gated y; linear up to a bias."""
        raise NotImplementedError

    def finish(
        self,
        y: Float[Array, "b l d"],
        recurrence: Recurrence,
        *,
        frozen: Frozen = NOTHING,
    ) -> Float[Array, "b l m"]:
        """Return the mixer's output, made of what its recurrence put out."""
        return self.project_out(self.gate(y, recurrence, frozen=frozen), frozen=frozen)

    def run(
        self,
        recurrence: Any,
        *,
        state: Any = None,
        segment_ids: Int[Array, "b l"] | None = None,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> tuple[Float[Array, "b l d"], Any]:
        """Return what the output projection reads, and the state after the last token.

        The gate is fused with the recurrence where it is the ordinary one.

        Args:
          recurrence: what `project` made, or something else in its place.
          state: before the first token.
          segment_ids: packed sequences.
          frozen: what derivatives take for constants.
          at: who edits and reads what passes; what is inside of a fused recurrence is
            taken out of it where somebody does.
        """
        assert isinstance(recurrence, Recurrence)
        kind, inside = type(self), (*(place.name for place in INSIDE), GATE.name)
        ordinary = (Mixer.gate, OpenMixer.gate)
        is_own = kind.gate not in ordinary or kind.recur is not Mixer.recur
        is_asked = at.asks(*inside)
        if is_own or frozen.activation or frozen.gate != "no" or is_asked:
            context = {"state": state, "segment_ids": segment_ids}
            y, state = self.recur_watched(recurrence, at, **context)
            return self.gate_watched(y, recurrence, at, frozen=frozen), state
        return run_recurrence(
            recurrence, state=state, segment_ids=segment_ids, is_gated=True
        )

    def recur_watched(
        self, recurrence: Recurrence, at: Watch, **context: Any
    ) -> RecurrenceOutput:
        """Return what a recurrence puts out after what is edited inside of it.

        Args:
          recurrence: of one direction.
          at: who edits and reads what passes in that direction.
          **context: `state` and `segment_ids`, as in `run`.
        """
        return watch_recurrence(self.recur, recurrence, at, **context)

    def gate_watched(
        self,
        y: Float[Array, "b l d"],
        recurrence: Recurrence,
        at: Watch,
        *,
        frozen: Frozen = NOTHING,
    ) -> Float[Array, "b l d"]:
        """Return what the output projection reads, after edits of an open gate."""
        options: dict[str, Any] = {"at": at} if self.is_open else {}
        return self.gate(y, recurrence, frozen=frozen, **options)

    def mix(
        self, recurrence: Any, *, frozen: Frozen = NOTHING, **context: Any
    ) -> tuple[Float[Array, "b l m"], Any]:
        """Return the mixer's output of a recurrence, and the state after it.

        Args:
          recurrence: what `project` made, or something else in its place.
          frozen: what derivatives take for constants.
          **context: `state` and `segment_ids`, as in `run`.
        """
        y, state = self.run(recurrence, frozen=frozen, **context)
        return self.project_out(y, frozen=frozen), state

    def gate_matrices(self) -> tuple[Any, ...]:
        """Return the `GateMatrices` of each direction; () if B, C are not made of u."""
        return ()

    def split_cache(self, cache: Any) -> tuple[Any, Any]:
        """Return what an earlier projection kept, and the state after it.

        Args:
          cache: that `cache_kind` made of them; None for none of both.
        """
        return (None, None) if cache is None else tuple(cache)

    def empty_cache(self, batch: int, dtype: Any) -> LayerCache | Any:
        """Return what the layer remembers before the first token.

        Args:
          batch: rows.
          dtype: of activations.

        Returns:
          A cache of `cache_kind`: what `project` keeps, and a state; None for a layer
          that reads all tokens at once.
        """
        raise NotImplementedError


class OpenMixer(Mixer):
    """A mixer whose `project` and `gate` take `at`, and call it on what they make.

    Of other mixers the parameters of the recurrence pass as they were projected.
    """

    is_open: ClassVar[bool] = True

    def gate(
        self,
        y: Float[Array, "b l d"],
        recurrence: Recurrence,
        *,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> Float[Array, "b l d"]:
        """Return what the output projection reads: y silu(z), or y without a gate."""
        if recurrence.z is None:
            return y
        return freezing.gate(y, recurrence.z, frozen, at=at)
