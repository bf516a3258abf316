"""Running gated recurrences, in chunks of tokens where they can be."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmamba.recurrences.chunks import fits_chunks, run_in_chunks
from jmamba.recurrences.maxima import divisor, running_maxima
from jmamba.types import GatedRecurrence


class GatedOutput(NamedTuple):
    """What a gated recurrence puts out, and its state after the last token.

    Where tokens are weighed by exponentials the state is over exp(m), m the running
    maximum of the weights' logarithms, decayed like the weights.
    """

    y: Float[Array, "b l h p"]
    last_state: Float[Array, "b h n p"]


@jax.jit
def run_gated(
    recurrence: GatedRecurrence,
    state: Float[Array, "b h n p"] | None = None,
    segment_ids: Int[Array, "b l"] | None = None,
) -> GatedOutput:
    """Return y = alpha values of a gated recurrence, and its last state.

    In chunks of tokens where a head decays by one number (`run_in_chunks`), token by
    token otherwise (`step_gated`). States and sums are in the dtype of the decays.

    Args:
      recurrence: see `GatedRecurrence`.
      state: before the first token; None for zero.
      segment_ids: of packed sequences; the state is reset where they change.

    Raises:
      ValueError: a state is given where rows are divided by their sums, whose part in
        the state is not known.

    Examples:
      >>> from jmamba.recurrences import delta_net
      >>> keys = jnp.eye(2)[None, jnp.array([0, 1, 0])][:, :, None]  # a, b, a
      >>> values = jnp.array([1.0, 2.0, 5.0])[None, :, None, None]
      >>> y, state = run_gated(delta_net(keys, keys, values, jnp.ones((1, 3, 1))))
      >>> [round(float(v), 3) for v in state[0, 0, :, 0]]  # a holds 5, not 1 + 5
      [5.0, 2.0]
    """
    if fits_chunks(recurrence) and recurrence.keys.shape[1] > 1:
        return GatedOutput(*run_in_chunks(recurrence, state, segment_ids))
    return step_gated(recurrence, state, segment_ids)


def step_gated(
    recurrence: GatedRecurrence,
    state: Float[Array, "b h n p"] | None = None,
    segment_ids: Int[Array, "b l"] | None = None,
) -> GatedOutput:
    """Return y = alpha values, and the last state, one token after the other.

    O(l h n p): the definition that `run_gated` and `hidden_attention` are held to.

    Args:
      recurrence, state, segment_ids: as in `run_gated`.

    Raises:
      ValueError: as `run_gated`, or texts are packed whose tokens have weights.

    Examples:
      >>> from jmamba.recurrences import delta_net
      >>> ones = jnp.ones((1, 3, 1, 1))
      >>> y, _ = step_gated(delta_net(ones, ones, 2 * ones, ones[..., 0]))
      >>> [round(float(v), 3) for v in y[0, :, 0, 0]]
      [2.0, 2.0, 2.0]
    """
    recurrence = recurrence.bare
    values, compute = recurrence.values, recurrence.log_decay.dtype
    if recurrence.floor is not None:
        if state is not None:
            raise ValueError(
                "run_gated takes no state where rows are divided by their sums "
                "(floor is given): what of the sums is in it, is not known."
            )
        values = jnp.concatenate([values, jnp.ones_like(values[..., :1])], axis=-1)
    if segment_ids is not None and recurrence.log_weights is not None:
        raise ValueError(
            "run_gated takes no segment_ids where tokens have log_weights, whose "
            "running maxima go through all of a row: give one sequence a row."
        )
    if state is None:
        (b, _, h, n), p = recurrence.keys.shape, values.shape[-1]
        state = jnp.zeros((b, h, n, p), compute)
    before, read, written = running_maxima(recurrence)
    each = recurrence._replace(values=values, bonus=None, floor=None)
    each = jax.tree.map(lambda x: x.astype(compute), each)
    begins = jnp.zeros(values.shape[:2], bool)
    if segment_ids is not None:
        begins = begins.at[:, 1:].set(segment_ids[:, 1:] != segment_ids[:, :-1])
    tokens = jax.tree.map(
        lambda x: jnp.moveaxis(x, 1, 0), (each, read, before, written, begins)
    )

    def step(state, token):
        each, read, before, written, begins = token
        state = jnp.where(begins[:, None, None, None], 0, state)
        new = each.keys[..., None] * each.values[..., None, :]
        log_weight = 0.0 if each.log_weights is None else each.log_weights
        # one exponent, as neither need be small
        log_kept = each.log_decay + (before - written)[..., None]
        decayed = state * jnp.exp(log_kept)[..., None]
        if each.erasure is not None:
            writes, reads = each.erasure
            held = jnp.einsum("bhn,bhnp->bhp", reads, decayed, precision="highest")
            decayed -= writes[..., None] * held[..., None, :]
        after = decayed + new * jnp.exp(log_weight - written)[..., None, None]
        shown = after
        if recurrence.bonus is not None:
            shown = state * jnp.exp(before - read)[..., None, None]
            own = recurrence.bonus[None, ..., None] * new
            shown += own * jnp.exp(log_weight - read)[..., None, None]
        y = jnp.einsum("bhn,bhnp->bhp", each.queries, shown, precision="highest")
        return after, y

    last_state, y = jax.lax.scan(step, state.astype(compute), tokens)
    y = jnp.moveaxis(y, 0, 1)
    if recurrence.floor is not None:
        y, sums = y[..., :-1], y[..., -1]
        y = y / divisor(sums, recurrence.floor[None, None], read)[..., None]
        last_state = last_state[..., :-1]
    return GatedOutput(y.astype(recurrence.values.dtype), last_state)
