"""Mamba-2's recurrence: validation in front of the primitives, and one step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmamba.ops.binding import bind_recurrence
from jmamba.ops.operands import check_operands
from jmamba.ops.operation import SSD
from jmamba.ops.primitives import present
from jmamba.ops.sharding import keep_places
from jmamba_kernels import accumulation_dtype
from jmamba_kernels.ssd.contract import SsdInputs
from jmamba_kernels.ssd.table import choose_ssd


class SsdOutput(NamedTuple):
    """Outputs `y` and the state after the last step."""

    y: Float[Array, "b l h p"]
    last_state: Float[Array, "b h p n"]


def ssd(
    u: Float[Array, "b l h p"],
    delta: Float[Array, "b l h"],
    A: Float[Array, "h"],
    B: Float[Array, "b l n"] | Float[Array, "b l g n"],
    C: Float[Array, "b l n"] | Float[Array, "b l g n"],
    D: Float[Array, "h"] | Float[Array, "h p"] | None = None,
    delta_bias: Float[Array, "h"] | None = None,
    *,
    delta_softplus: bool = False,
    delta_limit: tuple[float, float] | None = None,
    initial_state: Float[Array, "b h p n"] | None = None,
    segment_ids: Int[Array, "b l"] | None = None,
    implementation: str | None = None,
) -> SsdOutput:
    """Run Mamba-2's recurrence, a state space dual to attention, over a sequence.

        delta[t] = clip(softplus(delta[t] + delta_bias), delta_limit)
        h[t] = exp(delta[t] A) h[t-1] + delta[t] u[t] B[t]^T
        y[t] = h[t] C[t] + D u[t]

    Each head decays by one number, so that chunks of tokens are products of matrices.
    Every JAX transform works: jit, grad, jvp, jacfwd, jacrev, hessian, vmap over any
    argument, checkpoint, linearize, scan. States and sums are float32 for float32,
    bfloat16 and float16 inputs, and float64 for float64.

    Args:
      u: input, p values per token and head.
      delta: step sizes; positive unless `delta_softplus` makes them so.
      A: continuous-time decay rates, negative.
      B: input gates, shared by all heads or by those of one of g groups.
      C: output gates, like B.
      D: skip weights, of heads or of each of their channels; None for no skip.
      delta_bias: added to delta before softplus.
      delta_softplus: whether to apply softplus to delta + delta_bias.
      delta_limit: least and greatest step size; None for no limits.
      initial_state: state before the first token; None for zero.
      segment_ids: the state is reset wherever the id differs from the token before
        (packed sequences). The first token continues from `initial_state`.
      implementation: None or "xla" for the form that suits the device, or a name of
        `jmamba_kernels.ssd.table.SSD_IMPLEMENTATIONS`.

    Returns:
      y in the dtype of u, and the state after the last token, both differentiable.

    Raises:
      ValueError: shapes do not fit together, an axis is empty, the limits are no
        interval, or the implementation is unknown.
      TypeError: an operand is not a real floating-point array.
      NotImplementedError: a kernel is named that this op does not have.

    Examples:
      >>> ones, gate = jnp.ones((1, 3, 1, 2)), jnp.ones((1, 3, 1))
      >>> y, last_state = ssd(ones, gate, -jnp.ones(1), gate, gate)
      >>> [round(float(v), 3) for v in y[0, :, 0, 0]]
      [1.0, 1.368, 1.503]

    References:
      Dao & Gu, "Transformers are SSMs", arXiv 2405.21060, sections 3 and 6.
    """
    B, C = (x[:, :, None] if x.ndim == 3 else x for x in map(jnp.asarray, (B, C)))
    inputs = _as_inputs(u, delta, A, B, C, initial_state, segment_ids)
    D, delta_bias = (None if x is None else jnp.asarray(x) for x in (D, delta_bias))
    _check(inputs, D, delta_bias, delta_limit)
    choose_ssd(implementation, "cpu")
    delta = _step_sizes(inputs.delta, delta_bias, delta_softplus, delta_limit)
    y, last_state = bind_recurrence(
        SSD, inputs._replace(delta=delta), implementation=implementation
    )
    return SsdOutput(_add_skip(y, D, inputs.u), last_state)


def ssd_state_update(
    state: Float[Array, "b h p n"],
    u: Float[Array, "b h p"],
    delta: Float[Array, "b h"],
    A: Float[Array, "h"],
    B: Float[Array, "b n"] | Float[Array, "b g n"],
    C: Float[Array, "b n"] | Float[Array, "b g n"],
    D: Float[Array, "h"] | Float[Array, "h p"] | None = None,
    delta_bias: Float[Array, "h"] | None = None,
    *,
    delta_softplus: bool = False,
    delta_limit: tuple[float, float] | None = None,
) -> SsdOutput:
    """Advance the recurrence of `ssd` by one token.

    Args:
      state: state before the token.
      u, delta, A, B, C, D, delta_bias, delta_softplus, delta_limit: as in `ssd`,
        without the length axis.

    Returns:
      y in the dtype of u, without the length axis, and the new state in the dtype of
      the recurrence.

    Raises:
      ValueError: shapes do not fit together, or the limits are no interval.
      TypeError: an operand is not a real floating-point array.

    Examples:
      >>> ones, gate = jnp.ones((1, 1, 2)), jnp.ones((1, 1))
      >>> state = jnp.ones((1, 1, 2, 1))
      >>> y, state = ssd_state_update(state, ones, gate, -jnp.ones(1), gate, gate)
      >>> round(float(y[0, 0, 0]), 3)
      1.368

    References:
      Dao & Gu, "Transformers are SSMs", arXiv 2405.21060, section 3.
    """
    B, C = (x[:, None] if x.ndim == 2 else x for x in map(jnp.asarray, (B, C)))
    u, delta = jnp.asarray(u)[:, None], jnp.asarray(delta)[:, None]
    inputs = _as_inputs(u, delta, A, B[:, None], C[:, None], state)
    D, delta_bias = (None if x is None else jnp.asarray(x) for x in (D, delta_bias))
    _check(inputs, D, delta_bias, delta_limit)
    delta = _step_sizes(inputs.delta, delta_bias, delta_softplus, delta_limit)
    parts = present(inputs._replace(delta=delta))
    axes = tuple(SSD.axes[name] for name in parts)

    def run(*values):
        return _advance(SSD.open(values, parts))

    y, last = keep_places(run, tuple(parts.values()), axes, ("blhp", "bhpn"))
    return SsdOutput(_add_skip(y, D, inputs.u)[:, 0], last)


def _advance(inputs: SsdInputs) -> tuple[Array, Array]:
    """Return y and the state of a sequence of one token."""
    dtype, state = accumulation_dtype(inputs.u.dtype), inputs.initial_state
    assert state is not None
    u, delta, A, B, C = (x.astype(dtype) for x in inputs[:5])
    groups = B.shape[2]
    batch, _, heads, width = u.shape
    decay = jnp.exp(delta[:, 0] * A[None])[..., None, None]
    by_group = (batch, groups, heads // groups * width)
    x = (delta[..., None] * u).reshape(by_group)
    inflow = (x[..., None] * B[:, 0, :, None]).reshape(state.shape)
    h = decay * state.astype(dtype) + inflow
    h_groups = h.reshape(*by_group, h.shape[-1])
    y = jnp.einsum("bgxn,bgn->bgx", h_groups, C[:, 0], precision="highest")
    return y.reshape(u.shape), h


def _step_sizes(delta, bias, softplus: bool, limit) -> Float[Array, "b l h"]:
    """Return what the recurrence takes for delta, float32 or better if it is made."""
    if bias is None and not softplus and limit is None:
        return delta
    delta = delta.astype(accumulation_dtype(delta.dtype))
    if bias is not None:
        delta = delta + bias.astype(delta.dtype)[None, None]
    if softplus:
        delta = jax.nn.softplus(delta)
    return delta if limit is None else jnp.clip(delta, *limit)


def _add_skip(y, D, u) -> Float[Array, "b l h p"]:
    """Return y + D u in the dtype of u."""
    if D is not None:
        D = D[:, None] if D.ndim == 1 else D
        y = y + D.astype(y.dtype)[None, None] * u.astype(y.dtype)
    return y.astype(u.dtype)


def _as_inputs(*operands) -> SsdInputs:
    # pyright cannot tell that only optional operands are None
    arrays = (x if x is None else jnp.asarray(x) for x in operands)
    return SsdInputs(*arrays)  # pyright: ignore[reportArgumentType]


_SHAPES = {
    "u": "(b, l, h, p)",
    "delta": "(b, l, h)",
    "A": "(h,)",
    "B": "(b, l, n) or (b, l, g, n)",
    "C": "(b, l, n) or (b, l, g, n)",
    "D": "(h,) or (h, p)",
    "delta_bias": "(h,)",
    "initial_state": "(b, h, p, n)",
    "segment_ids": "(b, l)",
}


def _check(inputs: SsdInputs, D, delta_bias, limit) -> None:
    """Raise unless operands and limits fit together."""
    if inputs.u.ndim != 4 or inputs.B.ndim != 4:
        raise ValueError(
            "ssd needs u of shape (b, l, h, p) and B of shape (b, l, n) or "
            f"(b, l, g, n), but got u {inputs.u.shape} and B {inputs.B.shape}."
        )
    b, l, h, p = inputs.u.shape  # noqa: E741
    g, n = inputs.B.shape[2:]
    sizes = {"b": b, "l": l, "h": h, "p": p, "n": n, "g": g}
    of_heads = D is not None and D.ndim == 1
    axes = {**SSD.axes, "D": "h" if of_heads else "hp", "delta_bias": "h"}
    operands = {**present(inputs), "D": D, "delta_bias": delta_bias}
    check_operands("ssd", operands, axes, sizes, _SHAPES, made="u and B")
    if h % g:
        raise ValueError(
            f"ssd: {g} groups of B and C do not divide h={h} heads. Give B and C as "
            "(b, l, g, n) with g a divisor of h."
        )
    if limit is not None and not limit[0] <= limit[1]:
        raise ValueError(
            f"ssd: delta_limit={limit!r} is no interval; give (least, greatest)."
        )
