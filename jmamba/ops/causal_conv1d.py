"""The short causal depthwise convolution in front of the scan."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmamba.ops.real_numbers import advise_real
from jmamba.ops.sequences import of_last_part, tokens_before
from jmamba.ops.sharding import keep_places, run_in_parts
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

    Sums are float32 for float32, bfloat16 and float16 inputs, float64 for float64. On
    `Explicit` axes of a mesh each device runs its part; of tokens it sends k-1.

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

    axes = tuple(_AXES[name] for name in operands)
    run = partial(
        run_in_parts,
        _Convolution(tuple(operands), window, activation),
        in_axes=axes,
        out_axes=("bld", "bd_"),
        tokens=window - 1,
    )
    out = keep_places(
        lambda *values: run(values), tuple(operands.values()), axes, ("bld", "bd_")
    )
    return ConvOutput(*out)


_AXES = {
    "x": "bld",
    "weight": "d_",
    "bias": "d",
    "initial_state": "bd_",
    "segment_ids": "bl",
}
"""Axes of each operand; the window's are not split."""


class _Convolution(NamedTuple):
    """The op on whole sequences, or on the part of them that a device has."""

    names: tuple[str, ...]
    window: int
    activation: str | None

    def __call__(self, axes, *values):
        operands = dict(zip(self.names, values, strict=True))
        x, ids = operands["x"], operands.get("segment_ids")
        past = operands.pop("initial_state", None)
        if past is None:
            past = jnp.zeros((x.shape[0], self.window - 1, x.shape[2]), x.dtype)
        else:
            past = jnp.swapaxes(past, 1, 2).astype(x.dtype)  # b d k-1 -> b k-1 d
        past = self.before(x, past, axes)
        if ids is not None:
            first = jnp.repeat(ids[:, :1], self.window - 1, axis=1)
            ids = jnp.concatenate([self.before(ids, first, axes), ids], axis=1)
            operands["segment_ids"] = count_segments(ids, 0)
        y, last = _convolve(past, activation=self.activation, **operands)
        return y, of_last_part(last, axes) if axes else last

    def before(self, x, first, axes):
        """Return what stands before the tokens: `first` before those of a sequence."""
        return tokens_before(x, self.window - 1, first, axes) if axes else first


def _convolve(past, *, x, weight, bias=None, segment_ids=None, activation):
    """Convolve tokens with those before them, of numbered segments."""
    length, window, runs = x.shape[1], weight.shape[1], segment_ids
    padded = jnp.concatenate([past, x], axis=1)
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
