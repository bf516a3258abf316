"""The windowed sum: every transform against JAX's own derivatives of its definition."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, in_float64, quick_jit
from jax.sharding import PartitionSpec as P

from jmamba.ops.window import window_sum

BATCH, LENGTH, CHANNELS, WINDOW = 2, 5, 3, 3


def definition(x, w, keep=None):
    window = w.shape[1]
    terms = []
    for j in range(window):
        term = w[None, None, :, j] * x[:, j : x.shape[1] - window + 1 + j]
        kept = keep is None or keep[:, :, j, None] != 0
        terms.append(jnp.where(kept, term, 0))
    return sum(terms[1:], terms[0])


def operands(with_keep, *lead):
    draw = np.random.default_rng(3)
    x = draw.standard_normal((*lead, BATCH, LENGTH + WINDOW - 1, CHANNELS), np.float32)
    w = draw.standard_normal((*lead, CHANNELS, WINDOW), np.float32)
    if not with_keep:
        return jnp.asarray(x), jnp.asarray(w)
    keep = draw.random((*lead, BATCH, LENGTH, WINDOW)) < 0.6
    return jnp.asarray(x), jnp.asarray(w), jnp.asarray(keep)


def weigh(y):
    return jnp.sum(jnp.sin(y) * jnp.arange(y.size, dtype=y.dtype).reshape(y.shape))


def loss(run, keep, x, w):
    return weigh(run(x, w, *keep))


def value_and_grad(run, x, w, *keep):
    return jax.value_and_grad(partial(loss, run, keep), (0, 1))(x, w)


def jvp(run, x, w, *keep):
    return jax.jvp(lambda x, w: run(x, w, *keep), (x, w), (jnp.cos(x), jnp.sin(w)))


def jacobians(run, x, w, *keep):
    at = (lambda w: run(x, w, *keep)), (lambda x: run(x, w, *keep))
    return jax.jacfwd(at[0])(w), jax.jacrev(at[1])(x)


def hessian(run, x, w, *keep):
    return jax.hessian(partial(loss, run, keep), (0, 1))(x, w)


def linear_transposes(run, x, w, *keep):
    _, push = jax.linearize(lambda w: run(x, w, *keep), w)
    back = jax.linear_transpose(push, w)(run(x, w, *keep))
    _, pull = jax.vjp(lambda x, w: run(x, w, *keep), x, w)
    return back, jax.linear_transpose(pull, run(x, w, *keep))((jnp.cos(x), jnp.sin(w)))


TRANSFORMS = (value_and_grad, jvp, jacobians, hessian, linear_transposes)


@pytest.mark.parametrize("with_keep", [False, True])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transform_of_window_sum_equals_that_of_the_definition(transform, with_keep):
    args = operands(with_keep)
    actual = quick_jit(partial(transform, window_sum))(*args)
    expected = in_float64(partial(transform, definition), *args)
    assert_close(actual, expected, 2e-6)


@pytest.mark.parametrize(
    "moving", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
)
@pytest.mark.parametrize("transform", [value_and_grad, jvp])
def test_vmapped_transform_equals_that_of_the_definition(transform, moving):
    stacked, single = operands(True, 4), operands(True)
    args = [stacked[i] if i in moving else single[i] for i in range(3)]
    axes = tuple(0 if i in moving else None for i in range(3))

    def mapped(run):
        return jax.vmap(partial(transform, run), axes)

    actual = quick_jit(mapped(window_sum))(*args)
    assert_close(actual, in_float64(mapped(definition), *args), 2e-6)


@pytest.mark.parametrize("over", ["batch", "channels"])
def test_gradient_under_shard_map_equals_whole(over):
    x, w, *_ = operands(False)
    if over == "batch":
        x = jnp.concatenate([x, x + 1])
        specs, out = (P("x"), P()), P("x")
    else:
        x, w = jnp.concatenate([x, x], axis=2), jnp.concatenate([w, w])
        specs, out = (P(None, None, "x"), P("x")), P(None, None, "x")
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.shard_map(window_sum, mesh=mesh, in_specs=specs, out_specs=out)
    actual = quick_jit(partial(value_and_grad, sharded))(x, w)
    assert_close(actual, value_and_grad(window_sum, x, w), 2e-6)


def test_half_precision_operand_is_summed_in_the_dtype_of_the_window():
    x, w, *_ = operands(False)
    x = x.astype(jnp.bfloat16)
    y, (d_x, d_w) = value_and_grad(window_sum, x, w)
    assert (y.dtype, d_x.dtype, d_w.dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)
    assert_close(window_sum(x, w), definition(x.astype(jnp.float32), w), 1e-6)
