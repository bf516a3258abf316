"""Gated recurrences token by token, as their definition stands."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

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
    recurrence: GatedRecurrence, state: Float[Array, "b h n p"] | None = None
) -> GatedOutput:
    """Return y = alpha values of a gated recurrence, and its last state.

    One token after the other, O(l h n p): the definition that `hidden_attention` is
    held to, and good for texts of a few thousand tokens.

    Args:
      recurrence: see `GatedRecurrence`.
      state: before the first token; None for zero.

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
    values = recurrence.values
    if recurrence.floor is not None:
        if state is not None:
            raise ValueError(
                "run_gated takes no state where rows are divided by their sums "
                "(floor is given): what of the sums is in it, is not known."
            )
        values = jnp.concatenate([values, jnp.ones_like(values[..., :1])], axis=-1)
    if state is None:
        (b, _, h, n), p = recurrence.keys.shape, values.shape[-1]
        state = jnp.zeros((b, h, n, p), values.dtype)
    before, read, written = running_maxima(recurrence)
    each = recurrence._replace(values=values, bonus=None, floor=None)
    tokens = jax.tree.map(
        lambda x: jnp.moveaxis(x, 1, 0), (each, read, before, written)
    )

    def step(state, token):
        each, read, before, written = token
        new = each.keys[..., None] * each.values[..., None, :]
        log_weight = 0.0 if each.log_weights is None else each.log_weights
        # one exponent, as neither need be small
        log_kept = each.log_decay + (before - written)[..., None]
        decayed = state * jnp.exp(log_kept)[..., None]
        if each.erase_reads is not None:
            held = jnp.einsum("bhn,bhnp->bhp", each.erase_reads, decayed)
            decayed -= each.erase_writes[..., None] * held[..., None, :]
        after = decayed + new * jnp.exp(log_weight - written)[..., None, None]
        shown = after
        if recurrence.bonus is not None:
            shown = state * jnp.exp(before - read)[..., None, None]
            own = recurrence.bonus[None, ..., None] * new
            shown += own * jnp.exp(log_weight - read)[..., None, None]
        return after, jnp.einsum("bhn,bhnp->bhp", each.queries, shown)

    last_state, y = jax.lax.scan(step, state, tokens)
    y = jnp.moveaxis(y, 0, 1)
    if recurrence.floor is not None:
        y, sums = y[..., :-1], y[..., -1]
        y = y / divisor(sums, recurrence.floor[None, None], read)[..., None]
        last_state = last_state[..., :-1]
    return GatedOutput(y, last_state)
