"""The selective scan: validation in front of the primitives."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmamba.ops.binding import bind_recurrence
from jmamba.ops.operands import check_types
from jmamba.ops.operation import SELECTIVE_SCAN
from jmamba.ops.primitives import present
from jmamba.ops.sharding import keep_places
from jmamba.requests import check_sizes
from jmamba_kernels import IMPLEMENTATIONS, ScanInputs, accumulation_dtype
from jmamba_kernels.selective_scan.table import ALIASES, TILINGS, Choice


class ScanOutput(NamedTuple):
    """Outputs `y` and the state after the last step."""

    y: Float[Array, "b l d"]
    last_state: Float[Array, "b d n"]


def selective_scan(
    u: Float[Array, "b l d"],
    delta: Float[Array, "b l d"],
    A: Float[Array, "d n"],
    B: Float[Array, "b l n"] | Float[Array, "b l g n"],
    C: Float[Array, "b l n"] | Float[Array, "b l g n"],
    D: Float[Array, "d"] | None = None,
    z: Float[Array, "b l d"] | None = None,
    delta_bias: Float[Array, "d"] | None = None,
    *,
    delta_softplus: bool = False,
    initial_state: Float[Array, "b d n"] | None = None,
    segment_ids: Int[Array, "b l"] | None = None,
    implementation: Choice = None,
) -> ScanOutput:
    """Run the selective state space recurrence over a sequence.

        delta[t] = softplus(delta[t] + delta_bias)
        h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t]
        y[t] = (C[t] . h[t] + D u[t]) silu(z[t])

    Every JAX transform works: jit, grad, jvp, jacfwd, jacrev, hessian, vmap over any
    argument, checkpoint, linearize, scan. States and sums are float32 for float32,
    bfloat16 and float16 inputs, and float64 for float64. Each step rounds its decay, so
    that what l tokens leave of a state is exact to about l 2^-24 in float32; decays
    with delta A above -3e-8 round to 1, and float32 then forgets nothing. Where that
    matters, at 10^6 tokens or so, take float64 (table: docs/precision.md).

    On `Explicit` axes of a mesh each device runs its part of the rows, the channels and
    the tokens; of tokens it sends none, but states and what is left of them.

    Args:
      u: input, one value per token and channel.
      delta: step sizes; positive unless `delta_softplus` makes them so.
      A: continuous-time decay rates, negative.
      B: input gates, shared by all channels or by those of one of g groups.
      C: output gates, like B.
      D: skip weights; None for no skip.
      z: gate, applied as silu(z); None for no gate.
      delta_bias: added to delta before softplus.
      delta_softplus: whether to apply softplus to delta + delta_bias.
      initial_state: state before the first token; None for zero.
      segment_ids: the state is reset wherever the id differs from the token before
        (packed sequences). The first token continues from `initial_state`.
      implementation: None picks one when the program is lowered, by the rule of
        `jmamba_kernels.choose`; a name of `jmamba.ops.IMPLEMENTATIONS`, "xla",
        "pallas_gpu", or a kernel's tiling (`jmamba.ops.TpuTiling`, `TritonTiling`,
        `MosaicGpuTiling`) never falls back to another.

    Returns:
      y in the dtype of u, and the state after the last token, both differentiable.

    Raises:
      ValueError: shapes do not fit together, an axis is empty, or the implementation
        is unknown.
      TypeError: an operand is not a real floating-point array.
      NotImplementedError: the named implementation does not serve these operands.

    Examples:
      >>> ones = jnp.ones((1, 3, 2))
      >>> gate = jnp.ones((1, 3, 1))
      >>> y, last_state = selective_scan(ones, ones, -jnp.ones((2, 1)), gate, gate)
      >>> [round(float(v), 3) for v in y[0, :, 0]]
      [1.0, 1.368, 1.503]

    References:
      Gu & Dao, "Mamba", arXiv 2312.00752, section 3.2, algorithm 2.
    """
    B, C = (x[:, :, None] if x.ndim == 3 else x for x in map(jnp.asarray, (B, C)))
    inputs = _as_inputs(u, delta, A, B, C, D, z, delta_bias, initial_state, segment_ids)
    check_inputs(inputs)
    check_implementation(implementation)
    return ScanOutput(
        *bind_recurrence(
            SELECTIVE_SCAN,
            inputs,
            implementation=implementation,
            delta_softplus=bool(delta_softplus),
        )
    )


def selective_state_update(
    state: Float[Array, "b d n"],
    u: Float[Array, "b d"],
    delta: Float[Array, "b d"],
    A: Float[Array, "d n"],
    B: Float[Array, "b n"] | Float[Array, "b g n"],
    C: Float[Array, "b n"] | Float[Array, "b g n"],
    D: Float[Array, "d"] | None = None,
    z: Float[Array, "b d"] | None = None,
    delta_bias: Float[Array, "d"] | None = None,
    *,
    delta_softplus: bool = False,
) -> tuple[Float[Array, "b d"], Float[Array, "b d n"]]:
    """Advance the recurrence of `selective_scan` by one token.

    Args:
      state: state before the token.
      u, delta, A, B, C, D, z, delta_bias, delta_softplus: as in `selective_scan`,
        without the length axis.

    Returns:
      y in the dtype of u, and the new state in the dtype of the recurrence.

    Raises:
      ValueError: shapes do not fit together.
      TypeError: an operand is not a real floating-point array.

    Examples:
      >>> ones = jnp.ones((1, 2))
      >>> state, A, gate = jnp.ones((1, 2, 1)), -jnp.ones((2, 1)), jnp.ones((1, 1))
      >>> y, state = selective_state_update(state, ones, ones, A, gate, gate)
      >>> round(float(y[0, 0]), 3)
      1.368

    References:
      Gu & Dao, "Mamba", arXiv 2312.00752, section 3.2, algorithm 2.
    """
    B, C = (x[:, None] if x.ndim == 2 else x for x in map(jnp.asarray, (B, C)))
    u, delta = jnp.asarray(u)[:, None], jnp.asarray(delta)[:, None]
    z = None if z is None else jnp.asarray(z)[:, None]
    inputs = _as_inputs(u, delta, A, B[:, None], C[:, None], D, z, delta_bias, state)
    check_inputs(inputs)
    parts = present(inputs)
    axes = tuple(SELECTIVE_SCAN.axes[name] for name in parts)

    def run(*values):
        operands = SELECTIVE_SCAN.open(values, parts)
        return _advance(operands, delta_softplus=delta_softplus)

    return keep_places(run, tuple(parts.values()), axes, ("bd", "bdn"))


def _advance(inputs: ScanInputs, *, delta_softplus: bool) -> tuple[Array, Array]:
    """Return y and the state of a sequence of one token."""
    dtype, state = accumulation_dtype(inputs.u.dtype), inputs.initial_state
    assert state is not None
    u_t, delta_t, B_t, C_t = (
        x[:, 0].astype(dtype) for x in (inputs.u, inputs.delta, inputs.B, inputs.C)
    )
    if inputs.delta_bias is not None:
        delta_t = delta_t + inputs.delta_bias.astype(dtype)[None]
    if delta_softplus:
        delta_t = jax.nn.softplus(delta_t)
    A_bar = jnp.exp(delta_t[:, :, None] * inputs.A.astype(dtype)[None])
    groups = (u_t.shape[0], B_t.shape[1], -1)  # b g p, with p channels in each group
    input_term = (delta_t * u_t).reshape(*groups, 1) * B_t[:, :, None]
    h = A_bar * state.astype(dtype) + input_term.reshape(A_bar.shape)
    # a matrix-vector product: XLA:CPU runs a sum over the minor axis ten times slower
    h_groups = h.reshape(*groups, h.shape[-1])
    y = jnp.einsum("bgpn,bgn->bgp", h_groups, C_t, precision="highest")
    y = y.reshape(u_t.shape)
    if inputs.D is not None:
        y = y + inputs.D.astype(dtype)[None] * u_t
    if inputs.z is not None:
        y = y * jax.nn.silu(inputs.z[:, 0].astype(dtype))
    return y.astype(inputs.u.dtype), h


def _as_inputs(*operands) -> ScanInputs:
    # pyright cannot tell that only optional operands are None
    arrays = (x if x is None else jnp.asarray(x) for x in operands)
    return ScanInputs(*arrays)  # pyright: ignore[reportArgumentType]


_SHAPES = {
    "u": "(b, l, d)",
    "delta": "(b, l, d)",
    "A": "(d, n)",
    "B": "(b, l, n) or (b, l, g, n)",
    "C": "(b, l, n) or (b, l, g, n)",
    "D": "(d,)",
    "z": "(b, l, d)",
    "delta_bias": "(d,)",
    "initial_state": "(b, d, n)",
    "segment_ids": "(b, l)",
}


def check_inputs(inputs: ScanInputs) -> None:
    """Raise one error that lists every operand whose dtype or shape does not fit."""
    if inputs.u.ndim != 3 or inputs.A.ndim != 2:
        raise ValueError(
            f"selective_scan needs u of shape (b, l, d) and A of shape (d, n), "
            f"but got u {inputs.u.shape} and A {inputs.A.shape}."
        )
    check_types("selective_scan", inputs._asdict())
    (b, l, d), n = inputs.u.shape, inputs.A.shape[1]  # noqa: E741
    groups = inputs.B.shape[2] if inputs.B.ndim == 4 else 1
    sizes = {"b": b, "l": l, "d": d, "n": n, "g": groups}
    check_sizes("selective_scan", {"b": b, "l": l, "d": d, "n": n})
    wrong = []
    for name, x in inputs._asdict().items():
        if x is None:
            continue
        if x.shape != tuple(sizes[axis] for axis in SELECTIVE_SCAN.axes[name]):
            wrong.append(f"{name} {x.shape} should be {_SHAPES[name]}")
    if wrong:
        raise ValueError(
            f"selective_scan: with b={b}, l={l}, d={d} (from u) and n={n} (from A), "
            + "; ".join(wrong)
            + ". The order is batch, length, channel."
        )
    if groups == 0 or d % groups:
        raise ValueError(
            f"selective_scan: {groups} groups of B and C do not divide d={d} channels. "
            f"Give B and C as (b, l, g, n) with g a divisor of d."
        )


def check_implementation(implementation: Choice) -> None:
    """Raise unless the name, or the kind of tiling, is in the table."""
    if type(implementation) in TILINGS:
        return
    if implementation not in (None, *ALIASES, *IMPLEMENTATIONS):
        tilings = " or ".join(f"a {kind.__name__}" for kind in TILINGS)
        names = ", ".join(sorted([*ALIASES, *IMPLEMENTATIONS]))
        raise ValueError(
            f"Unknown implementation {implementation!r}. Give None (chosen by the "
            f"device), one of {names}, or {tilings}."
        )
