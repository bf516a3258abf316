"""Running gated recurrences as layers keep them: heads side by side."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmamba.layers.recurrence import RecurrenceOutput
from jmamba.recurrences import run_gated
from jmamba.types import GatedRecurrence


def run_heads(
    recurrence: GatedRecurrence,
    state: Float[Array, "b d n"] | None = None,
    segment_ids: Int[Array, "b l"] | None = None,
) -> RecurrenceOutput:
    """Return what a gated recurrence puts out, heads side by side, and its state.

    The state of a head stands in p rows of n numbers, as in `RecurrenceOutput`.

    Examples:
      >>> from jmamba.recurrences import gated_delta_net
      >>> ones = jnp.ones((1, 3, 2, 2))
      >>> rule = gated_delta_net(ones, ones, ones, ones[..., 0], 0 * ones[..., 0])
      >>> [x.shape for x in run_heads(rule)]
      [(1, 3, 4), (1, 4, 2)]
    """
    batch, length, heads, p = recurrence.values.shape
    if state is not None:  # b (h p) n -> b h n p
        state = jnp.swapaxes(state.reshape(batch, heads, p, -1), 2, 3)
    y, last = run_gated(recurrence, state, segment_ids)
    last = jnp.swapaxes(last, 2, 3).reshape(batch, heads * p, -1)
    return RecurrenceOutput(y.reshape(batch, length, heads * p), last)
