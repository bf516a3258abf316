"""The short causal depthwise convolution in front of the scan."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmamba.ops.real_numbers import advise_real
from jmamba.ops.sharding import keep_places
from jmamba.ops.window import window_sum
from jmamba.requests import check_sizes
from jmamba_kernels import accumulation_dtype


class ConvOutput(NamedTuple):
    """Outputs `y` and the last k-1 inputs, from which a continuation goes on."""

    y: Float[Array, "b l d"]
    last_state: Float[Array, "b d k-1"]


def causal_conv1d(
    x: Float[Array, "b l d"],
    weight: Float[Array, "d k"],
    bias: Float[Array, "d"] | None = None,
    *,
    activation: str | None = None,
    initial_state: Float[Array, "b d k-1"] | None = None,
    segment_ids: Int[Array, "b l"] | None = None,
) -> ConvOutput:
    """Convolve each channel with its own causal window.

        y[t] = act(bias + sum_j weight[j] x[t - (k-1) + j])

    Sums are float32 for float32, bfloat16 and float16 inputs, float64 for float64.

    Args:
      x: input.
      weight: one window per channel, the current token last.
      bias: added before the activation.
      activation: None or "silu".
      initial_state: the k-1 inputs before the first token; None for zeros.
      segment_ids: tokens of another segment count as zeros (packed sequences); the
        first segment continues from `initial_state`.

    Returns:
      y in the dtype of x, and the last k-1 inputs of the sequence, zeros where they
      belong to another segment than the last.

    Raises:
      ValueError: shapes do not fit together, or the activation is unknown.
      TypeError: an operand is not a real floating-point array.

    Examples:
      >>> x = jnp.arange(1.0, 4.0).reshape(1, 3, 1)
      >>> y, last_state = causal_conv1d(x, jnp.array([[1.0, 10.0]]))
      >>> y[0, :, 0].tolist(), last_state.tolist()
      ([10.0, 21.0, 32.0], [[[3.0]]])

    References:
      Gu & Dao, "Mamba", arXiv 2312.00752, section 3.4, figure 3.
    """
    x, weight = jnp.asarray(x), jnp.asarray(weight)
    window = _check(x, weight, bias, activation, initial_state, segment_ids)
    operands = {
        "x": x,
        "weight": weight,
        "bias": bias,
        "initial_state": initial_state,
        "segment_ids": segment_ids,
    }
    operands = {k: jnp.asarray(v) for k, v in operands.items() if v is not None}

    def run(*values):
        return _convolve(**dict(zip(operands, values, strict=True)), window=window,
                         activation=activation)  # fmt: skip

    axes = tuple(_AXES[name] for name in operands)
    out = keep_places(run, tuple(operands.values()), axes, ("bld", "bd_"))
    return ConvOutput(*out)


_AXES = {
    "x": "bld",
    "weight": "d_",
    "bias": "d",
    "initial_state": "bd_",
    "segment_ids": "bl",
}
"""Axes of each operand; the window's are not split."""


def _convolve(
    x, weight, bias=None, initial_state=None, segment_ids=None, *, window, activation
):
    length = x.shape[1]
    if initial_state is None:
        past = jnp.zeros((x.shape[0], window - 1, x.shape[2]), x.dtype)
    else:
        past = jnp.swapaxes(initial_state, 1, 2).astype(x.dtype)  # b d k-1 -> b k-1 d
    padded = jnp.concatenate([past, x], axis=1)
    runs = None if segment_ids is None else count_segments(segment_ids, window - 1)
    dtype = accumulation_dtype(x.dtype)
    keep = None
    if runs is not None:
        taps = [runs[:, j : j + length] for j in range(window)]
        keep = jnp.stack([tap == taps[-1] for tap in taps], axis=-1)
    y = window_sum(padded, weight.astype(dtype), keep)
    if bias is not None:
        y = y + bias.astype(dtype)[None, None]
    if activation == "silu":
        y = jax.nn.silu(y)
    last = padded[:, length:]
    if runs is not None:
        last = jnp.where((runs[:, length:] == runs[:, -1:])[:, :, None], last, 0)
    last_state = jnp.swapaxes(last, 1, 2)  # b k-1 d -> b d k-1
    return y.astype(x.dtype), last_state


def count_segments(segment_ids: Int[Array, "b l"], past: int) -> Int[Array, "b t"]:
    """Number the segments from 0, the tokens before the first one included.

    Unlike ids, the numbers never come back: a segment ends where the id changes.
    """
    changes = segment_ids[:, 1:] != segment_ids[:, :-1]
    return jnp.pad(jnp.cumsum(changes, axis=1), ((0, 0), (past + 1, 0)))


def _check(x, weight, bias, activation, initial_state, segment_ids) -> int:
    """Return the window size, or raise an error that says what does not fit."""
    if x.ndim != 3 or weight.ndim != 2 or weight.shape[0] != x.shape[2]:
        raise ValueError(
            f"causal_conv1d needs x (b, l, d) and weight (d, k), but got x {x.shape} "
            f"and weight {weight.shape}. The order is batch, length, channel."
        )
    (b, l, d), k = x.shape, weight.shape[1]  # noqa: E741
    check_sizes("causal_conv1d", {"b": b, "l": l, "d": d, "k": k})
    for name, value in {"x": x, "weight": weight, "bias": bias}.items():
        if value is not None and not jnp.issubdtype(
            jnp.result_type(value), jnp.floating
        ):
            dtype = jnp.result_type(value)
            raise TypeError(
                f"causal_conv1d: {name} is {dtype}, but must be real floating point. "
                f"{advise_real(name, dtype)}"
            )
    needed = {
        "bias": (bias, (d,)),
        "initial_state": (initial_state, (b, d, k - 1)),
        "segment_ids": (segment_ids, (b, l)),
    }
    for name, (value, shape) in needed.items():
        if value is not None and jnp.shape(value) != shape:
            raise ValueError(
                f"causal_conv1d: {name} has shape {jnp.shape(value)}, but x {x.shape} "
                f"and weight {weight.shape} need {shape}."
            )
    if activation not in (None, "silu"):
        raise ValueError(
            f"causal_conv1d: unknown activation {activation!r}; give None or 'silu'."
        )
    return k
