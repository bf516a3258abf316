"""States of a recurrence after chosen tokens."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmamba.layers.gated import run_heads
from jmamba.layers.recurrence import RecurrenceOutput, by_channel, run_recurrence
from jmamba.types import OF_HEADS, GatedRecurrence, Recurrence


def states_after(
    recurrence: Recurrence | GatedRecurrence,
    tokens: Int[Array, "q"],
    *,
    state: Float[Array, "b d n"] | None = None,
) -> Float[Array, "b q d n"]:
    """Return the states after chosen tokens.

        h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t]^T

    or what a `GatedRecurrence` says of S. Only they are kept; the others pass by.

    Args:
      recurrence: of one direction.
      tokens: places from 0 on, in any order.
      state: the state before the first token; None for zero.

    Raises:
      ValueError: tokens are weighed by exponentials, over which states stand.

    Examples:
      >>> ones, gates = jnp.ones((1, 3, 2)), jnp.ones((1, 3, 1, 1))
      >>> log_half = jnp.log(jnp.full((1, 1), 0.5))
      >>> recurrence = Recurrence(ones, ones[..., :1], log_half, gates, gates)
      >>> states = states_after(recurrence, jnp.array([2, 0]))
      >>> [round(float(h), 3) for h in states[0, :, 0, 0]]
      [1.75, 1.0]
    """
    rows, constants, empty = _by_token(recurrence)
    start: Any = empty if state is None else state
    length = jax.tree.leaves(rows)[0].shape[0]
    # one slot per chosen token, and one that all the others overwrite
    slots = (
        jnp.full((length,), tokens.shape[0]).at[tokens].set(jnp.arange(tokens.shape[0]))
    )
    shape = (tokens.shape[0] + 1, *start.shape)

    def step(carry, token):
        state, kept = carry
        slot, one = token
        one = jax.tree.map(lambda x: x[:, None], one)
        state = _run(type(recurrence)(**one, **constants), state).last_state
        kept = jax.lax.dynamic_update_index_in_dim(kept, state, slot, axis=0)
        return (state, kept), None

    first = (start, jnp.zeros(shape, start.dtype))
    (_, kept), _ = jax.lax.scan(step, first, (slots, rows))
    return jnp.moveaxis(kept[slots[tokens]], 0, 1)  # the same token may come twice


def _by_token(recurrence: Any) -> tuple[dict, dict, Any]:
    """Return what each token has, l first, what all share, and an empty state."""
    if isinstance(recurrence, GatedRecurrence):
        if recurrence.log_weights is not None:
            raise ValueError(
                "states_after: tokens have log_weights, and states stand over their "
                "running maximum; run_gated of jmamba.recurrences returns the last."
            )
        bare, shared = recurrence.bare._replace(bonus=None, floor=None), OF_HEADS
        (batch, _, heads, p), n = bare.values.shape, bare.keys.shape[-1]
        shape, dtype = (batch, heads * p, n), bare.log_decay.dtype
    else:
        bare, shared = by_channel(recurrence)._replace(D=None, z=None), ("A",)
        shape = (bare.u.shape[0], bare.u.shape[2], bare.A.shape[-1])
        dtype = bare.delta.dtype
    parts = {name: x for name, x in bare._asdict().items() if x is not None}
    constants = {name: x for name, x in parts.items() if name in shared}
    rows = {
        name: jnp.moveaxis(x, 1, 0) for name, x in parts.items() if name not in shared
    }
    return rows, constants, jnp.zeros(shape, dtype)


def _run(recurrence: Any, state: Any) -> RecurrenceOutput:
    if isinstance(recurrence, GatedRecurrence):
        return run_heads(recurrence, state)
    return run_recurrence(recurrence, state=state)
