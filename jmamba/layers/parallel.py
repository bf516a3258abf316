"""Two mixers side by side in one block: a recurrence and softmax attention."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jmamba.layers.attention import SelfAttention
from jmamba.layers.freezing import NOTHING, Frozen
from jmamba.layers.mixer import Mixer, OpenMixer, Projection
from jmamba.layers.places import PASS_BY, Place, Watch
from jmamba.layers.recurrence import RecurrenceOutput
from jmamba.types import AttentionCache, LayerCache, ParallelCache, SideBySide

NAMES = ("recurrent", "attention")
"""What the names of the places of either begin with."""


def _join_caches(kept: Any, state: Any) -> ParallelCache:
    return ParallelCache(
        LayerCache(kept[0], state[0]), AttentionCache(kept[1], state[1])
    )


class ParallelMixer(OpenMixer):
    """A recurrence and softmax attention that read the same input, and are added.

        out = a recurrent(x) + b attention(c x)

    What the output projection reads is that of both, one behind the other.

    Args:
      recurrent: the mixer that recurs.
      attention: the other.
      scales: a, b and c.

    References:
      Zuo et al., "Falcon-H1", arXiv 2507.22448, section 2.
    """

    recurs_as, cache_kind = SideBySide, staticmethod(_join_caches)
    letters: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        recurrent: Mixer,
        attention: SelfAttention,
        *,
        scales: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ):
        self.recurrent, self.attention, self.scales = recurrent, attention, scales
        self.window = recurrent.window

    @property
    def places(self) -> tuple[Place, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Places of either, in the order of the forward pass."""
        pairs = zip(NAMES, (self.recurrent, self.attention), strict=True)
        return tuple(
            place.under(name, is_mirrored=False)
            for name, mixer in pairs
            for place in mixer.places
        )

    def split_cache(self, cache: ParallelCache | None) -> tuple[Any, Any]:
        """Return what both projections kept, and the states of both."""
        if cache is None:
            return None, None
        (conv_state, ssm_state), (reach, past) = cache
        return (conv_state, reach), (ssm_state, past)

    def project(
        self,
        x: Float[Array, "b l m"],
        *,
        kept: Any = None,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
        **context: Any,
    ) -> Projection:
        """Return what both project the normalised input to; see `Mixer.project`."""
        first, second = (None, None) if kept is None else kept
        context["frozen"] = frozen
        one = self.recurrent.project(x, kept=first, at=at.under(NAMES[0]), **context)
        other = self.attention.project(
            _times(x, self.scales[2]), kept=second, at=at.under(NAMES[1]), **context
        )
        both = SideBySide(one.recurrence, other.recurrence)
        return Projection(both, (one.kept, other.kept), one.convolutions)

    def run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        recurrence: SideBySide,
        *,
        state: Any = None,
        segment_ids: Any = None,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> tuple[Float[Array, "b l d"], Any]:
        """Return what both output projections read, and both states; see `Mixer.run`.

        Raises:
          ValueError: what both put out is to be edited at once.
        """
        if at.asks("y"):
            raise ValueError(
                "Two mixers stand side by side here: edit or read 'recurrent.y' or "
                "'attention.y', not 'y'."
            )
        first, second = (None, None) if state is None else state
        context: dict[str, Any] = {"segment_ids": segment_ids, "frozen": frozen}
        y, first = self.recurrent.run(
            recurrence.recurrent, state=first, at=at.under(NAMES[0]), **context
        )
        other, second = self.attention.run(
            recurrence.attention, state=second, at=at.under(NAMES[1]), **context
        )
        return jnp.concatenate([y, other.astype(y.dtype)], axis=-1), (first, second)

    def recur(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, recurrence: SideBySide, **context: Any
    ) -> RecurrenceOutput:
        """Raise: each of the mixers recurs by itself.

        Raises:
          TypeError: always.
        """
        raise TypeError(
            "Two mixers stand side by side here: take mixer.recurrent or "
            "mixer.attention, and that part of the recurrence."
        )

    def project_out(
        self, y: Float[Array, "b l d"], *, frozen: Frozen = NOTHING
    ) -> Float[Array, "b l m"]:
        """Return the sum of what both output projections make of their parts of y."""
        width = self.attention.sizes.num_query_heads * self.attention.sizes.query_width
        first, second = jnp.split(y, [y.shape[-1] - width], axis=-1)
        out = _times(self.recurrent.project_out(first, frozen=frozen), self.scales[0])
        other = self.attention.project_out(second, frozen=frozen)
        return out + _times(other, self.scales[1])

    def empty_cache(self, batch: int, dtype: Any) -> Any:
        """Return the caches of both."""
        return ParallelCache(
            self.recurrent.empty_cache(batch, dtype),
            self.attention.empty_cache(batch, dtype),
        )


def _times(x, scale: float):
    return x if scale == 1.0 else x * jnp.asarray(scale, x.dtype)
