"""The causal convolution, against numpy, lax and its own laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, tolerance
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from jmamba.ops import causal_conv1d
from jmamba_kernels.versions import enable_x64

pytestmark = pytest.mark.usefixtures("optimised_programs")


def make(seed=0, *, batch=2, length=7, channels=3, window=4, dtype="float32"):
    """Draw x, weight, bias and an initial state."""
    draw = np.random.default_rng(seed)
    shapes = [(batch, length, channels), (channels, window), (channels,),
              (batch, channels, window - 1)]  # fmt: skip
    return [jnp.asarray(draw.standard_normal(s), jnp.dtype(dtype)) for s in shapes]


def numpy_conv(x, weight, bias, activation, initial_state, segment_ids):
    """Convolve number by number, in float64."""
    x, weight, bias, past = (
        np.asarray(v, np.float64) for v in (x, weight, bias, initial_state)
    )
    window, length = weight.shape[1], x.shape[1]
    if segment_ids is None:
        segment_ids = np.zeros(x.shape[:2])
    segments = np.asarray(segment_ids)

    def is_other(ids, source, t):
        return len(set(ids[max(source, 0) : t + 1])) > 1

    y = np.empty(x.shape)
    for b, t, d in np.ndindex(x.shape):
        total = bias[d]
        for back in range(window):
            source = t - back
            if is_other(segments[b], source, t):
                continue
            value = x[b, source, d] if source >= 0 else past[b, d, window - 1 + source]
            total += weight[d, window - 1 - back] * value
        y[b, t, d] = total
    if activation == "silu":
        y = y / (1 + np.exp(-y))
    last_state = np.zeros(past.shape)
    for b, d, j in np.ndindex(past.shape):
        source = length - (window - 1) + j
        if not is_other(segments[b], source, length - 1):
            last_state[b, d, j] = (
                x[b, source, d] if source >= 0 else past[b, d, length + j]
            )
    return y, last_state


IDS = jnp.array([[5, 5, 5, 2, 2, 2, 5], [1, 2, 2, 2, 2, 3, 3]])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize("segment_ids", [None, IDS], ids=["whole", "segments"])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_conv_equals_numpy(activation, segment_ids, window, dtype):
    x, weight, bias, past = make(window=window, dtype=dtype)
    y, last_state = causal_conv1d(
        x, weight, bias, activation=activation, initial_state=past,
        segment_ids=segment_ids,
    )  # fmt: skip
    expected = numpy_conv(x, weight, bias, activation, past, segment_ids)
    assert y.dtype == last_state.dtype == x.dtype
    assert_close((y, last_state), expected, tolerance(dtype).value)


def test_conv_equals_lax():
    x, weight, bias, _ = make(length=40, channels=8)
    y = causal_conv1d(x, weight, bias).y
    expected = jax.lax.conv_general_dilated(
        x,
        weight.T[:, None],  # d k -> k 1 d
        window_strides=(1,),
        padding=[(3, 0)],
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=8,
    )
    assert_close(y, expected + bias[None, None], tolerance("float32").value)


@given(cut=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_conv_in_two_parts_equals_whole(cut, seed):
    x, weight, bias, past = make(seed)
    whole = causal_conv1d(x, weight, bias, activation="silu", initial_state=past)
    first = causal_conv1d(
        x[:, :cut], weight, bias, activation="silu", initial_state=past
    )
    second = causal_conv1d(
        x[:, cut:], weight, bias, activation="silu", initial_state=first.last_state
    )
    joined = jnp.concatenate([first.y, second.y], axis=1)
    assert_close((joined, second.last_state), tuple(whole), 1e-6)


@given(first=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_conv_of_segments_equals_separate_convolutions(first, seed):
    x, weight, bias, past = make(seed)
    ids = jnp.where(jnp.arange(7) < first, 4, 1)[None].repeat(2, axis=0)
    packed = causal_conv1d(x, weight, bias, initial_state=past, segment_ids=ids)
    before = causal_conv1d(x[:, :first], weight, bias, initial_state=past)
    after = causal_conv1d(x[:, first:], weight, bias)
    joined = jnp.concatenate([before.y, after.y], axis=1)
    assert_close(packed.y, joined, 1e-6)


def test_conv_without_options_is_that_with_zeros():
    x, weight, bias, past = make()
    zeros = causal_conv1d(x, weight, 0 * bias, initial_state=0 * past)
    assert_close(causal_conv1d(x, weight), zeros, 1e-7)


def test_conv_forgets_segments_that_came_before():
    """A token three places back in the same id counts only if no other lay between."""
    x, weight, bias, _ = make(batch=1)
    ids = jnp.array([[1, 2, 1, 1, 1, 1, 1]])
    moved = x.at[:, 0].add(1.0)
    y, other = (causal_conv1d(v, weight, bias, segment_ids=ids).y for v in (x, moved))
    assert not np.array_equal(y[:, 0], other[:, 0])
    np.testing.assert_array_equal(y[:, 1:], other[:, 1:])


def test_conv_gradient_equals_finite_differences():
    with enable_x64():
        args = make(dtype="float64")

        def loss(*args):
            x, weight, bias, past = map(jnp.asarray, args)
            y, last_state = causal_conv1d(
                x,
                weight,
                bias,
                activation="silu",
                initial_state=past,
                segment_ids=IDS,
            )
            return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(last_state))

        check_grads(jax.jit(loss), args, order=1, rtol=1e-6, atol=1e-6)


def test_conv_names_what_does_not_fit():
    x, weight, bias, past = make()
    with pytest.raises(ValueError, match=r"needs x \(b, l, d\) and weight \(d, k\)"):
        causal_conv1d(x[0], weight)
    with pytest.raises(ValueError, match=r"weight \(4, 3\). The order is batch"):
        causal_conv1d(x, weight.T)
    with pytest.raises(ValueError, match=r"bias has shape \(2,\)"):
        causal_conv1d(x, weight, bias[:2])
    with pytest.raises(
        ValueError, match=r"initial_state has shape .* need \(2, 3, 3\)"
    ):
        causal_conv1d(x, weight, initial_state=past[:, :, :2])
    with pytest.raises(ValueError, match=r"segment_ids has shape .* need \(2, 7\)"):
        causal_conv1d(x, weight, segment_ids=IDS[0])
    with pytest.raises(
        ValueError, match="unknown activation 'relu'; give None or 'silu'"
    ):
        causal_conv1d(x, weight, activation="relu")
    with pytest.raises(ValueError, match="causal_conv1d: k=0 is an empty axis"):
        causal_conv1d(x, weight[:, :0])
    with pytest.raises(ValueError, match="causal_conv1d: l=0 is an empty axis"):
        causal_conv1d(x[:, :0], weight)
    with pytest.raises(TypeError, match="x is int32, but must be real floating point"):
        causal_conv1d(x.astype(int), weight)
