"""What every implementation of Mamba-2's recurrence receives and returns.

The recurrence, per batch row and head, with a state of p rows and n columns:

    h[t] = exp(delta[t] A) keep[t] h[t-1] + delta[t] u[t] B[t]^T
    y[t] = h[t] C[t]

A is one number per head, so that a chunk of tokens is a few products of matrices. What
stands around it (bias, softplus and limits of delta, the skip D u) works on single
numbers, and XLA fuses it with whatever is beside it.

An implementation is three maps over the same inputs, as in
`jmamba_kernels.selective_scan.contract`: `scan` runs the recurrence, `tangent` is
linear in k directions at once and `cotangent` is its transpose.

Axes: b batch, l length, h heads, p width of a head, n states, g groups of heads that
share B and C (g divides h), k directions, m chunks of `SSD_CHUNK` tokens.
"""

from typing import NamedTuple

from jaxtyping import Array, Float, Int

SSD_CHUNK = 64
"""Tokens that are one product of matrices, and between two saved states."""


class SsdInputs(NamedTuple):
    """Operands of Mamba-2's recurrence; an absent one is None."""

    u: Float[Array, "b l h p"]
    delta: Float[Array, "b l h"]
    A: Float[Array, "h"]
    B: Float[Array, "b l g n"]
    C: Float[Array, "b l g n"]
    initial_state: Float[Array, "b h p n"] | None = None
    segment_ids: Int[Array, "b l"] | None = None


class SsdResult(NamedTuple):
    """Outputs of `scan`, in the dtype of the state.

    `chunk_states[:, i]` is the state before token i `SSD_CHUNK`.
    """

    y: Float[Array, "b l h p"]
    last_state: Float[Array, "b h p n"]
    chunk_states: Float[Array, "b m n h p"] | None


def some_ssd_inputs(**operands) -> SsdInputs:
    """Return SsdInputs that hold some operands only: tangents, or cotangents."""
    values = dict.fromkeys(SsdInputs._fields) | operands
    return SsdInputs(**values)  # pyright: ignore[reportArgumentType]
