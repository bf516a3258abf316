"""What every implementation of the selective scan receives and returns.

The recurrence, per batch row and channel, with n states:

    delta[t] = softplus(delta_raw[t] + delta_bias)         (each part optional)
    h[t] = exp(delta[t] A) keep[t] h[t-1] + delta[t] B[t] u[t]
    y[t] = (C[t] . h[t] + D u[t]) silu(z[t])               (D and z optional)

An implementation is three maps over the same inputs. `scan` runs the recurrence.
`tangent` is linear in k directions at once and `cotangent` is its transpose: both
share the decays exp(delta A) among the k directions, which is what a Jacobian needs.

Axes: b batch, l length, d channels, n states, g groups of B and C (g divides d),
k directions, m chunks of `CHUNK` tokens.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

CHUNK = 32
"""Tokens between two saved states: a backward pass recomputes at most this many."""


class ScanInputs(NamedTuple):
    """Operands of the scan; an absent one is None."""

    u: Float[Array, "b l d"]
    delta: Float[Array, "b l d"]
    A: Float[Array, "d n"]
    B: Float[Array, "b l g n"]
    C: Float[Array, "b l g n"]
    D: Float[Array, "d"] | None = None
    z: Float[Array, "b l d"] | None = None
    delta_bias: Float[Array, "d"] | None = None
    initial_state: Float[Array, "b d n"] | None = None
    segment_ids: Int[Array, "b l"] | None = None


def some_inputs(**operands) -> ScanInputs:
    """Return a ScanInputs that holds some operands only: tangents, or cotangents."""
    values = dict.fromkeys(ScanInputs._fields) | operands
    return ScanInputs(**values)  # pyright: ignore[reportArgumentType]


class ScanResult(NamedTuple):
    """Outputs of `scan`; `chunk_states[:, i]` is the state before token i CHUNK."""

    y: Float[Array, "b l d"]
    last_state: Float[Array, "b d n"]
    chunk_states: Float[Array, "b m n d"] | None


class Implementation(NamedTuple):
    """The three maps of one implementation, here of the selective scan.

    scan(inputs, *, delta_softplus, save_states) -> ScanResult
    tangent(inputs, tangents, *, delta_softplus) -> (d_y, d_last_state)
    cotangent(inputs, chunk_states, d_y, d_last_state, *, delta_softplus, wanted)
        -> ScanInputs holding the cotangents of the fields named in `wanted`

    Tangents and cotangents carry a leading axis k; an absent tangent is None (zero).
    """

    scan: Callable[..., Any]
    tangent: Callable[..., tuple[Array, Array]]
    cotangent: Callable[..., Any]


def accumulation_dtype(dtype) -> jnp.dtype:
    """Return the dtype of states and sums: float64 for float64, else float32."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


def num_chunks(length: int) -> int:
    """Return how many states are saved for a sequence."""
    return -(-length // CHUNK)


def keep_mask(segment_ids: Int[Array, "b l"]) -> Array:
    """Return 0 where a new segment starts and 1 elsewhere, shape (b, l).

    The first token continues from the initial state.
    """
    same = segment_ids[:, 1:] == segment_ids[:, :-1]
    return jnp.pad(same, ((0, 0), (1, 0)), constant_values=True)
