"""Mamba-2's recurrence against its float64 definition: values, derivatives, laws."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    assert_close,
    differentiable,
    in_float64,
    quick_jit,
    tolerance,
    widen,
)
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ssd_samples import (
    define_ssd,
    golden_operands,
    make_ssd_inputs,
    run_ssd,
    wave,
)
from transforms import TRANSFORMS, weigh

from jmamba.ops import selective_scan, ssd, ssd_state_update
from jmamba.ops.operation import SSD
from jmamba.ops.rematerialisation import scans_like_products
from jmamba_kernels.ssd.contract import SSD_CHUNK
from jmamba_kernels.ssd.sums import rectangle_sums, running_sums
from jmamba_kernels.versions import enable_x64

OPTIONS = ("initial_state", "segment_ids")
TINY = {"batch": 1, "length": 4, "width": 2, "states": 2, "options": OPTIONS}


def test_golden_numbers():
    with enable_x64():
        operands = golden_operands()
        y = np.asarray(ssd(*operands).y)
        units = jnp.broadcast_to(jnp.eye(6)[None, :, None], (1, 6, 2, 6))
        alpha = np.asarray(ssd(units, *operands[1:5]).y)
    np.testing.assert_allclose(y[0, 5, 1, 2], -1.95915545855, rtol=1e-11)
    np.testing.assert_allclose(y.sum(), 0.103872296364, rtol=1e-10)
    np.testing.assert_allclose(alpha[0, 5, 0, 0], 0.00365269252606, rtol=1e-11)
    np.testing.assert_allclose(alpha[0, 5, 1, 4], -0.00894803294009, rtol=1e-11)


def test_definition_is_the_loop():
    inputs = make_ssd_inputs(length=5, heads=4, groups=2, options=OPTIONS)
    x = widen(inputs)
    y = np.zeros(x.u.shape)
    for b, a in np.ndindex(2, 4):
        h = x.initial_state[b, a].copy()
        for t in range(5):
            if t and x.segment_ids[b, t] != x.segment_ids[b, t - 1]:
                h[:] = 0
            delta, g = x.delta[b, t, a], a // 2
            h = np.exp(delta * x.A[a]) * h
            h += delta * np.outer(x.u[b, t, a], x.B[b, t, g])
            y[b, t, a] = h @ x.C[b, t, g]
    found = in_float64(define_ssd, inputs)
    np.testing.assert_allclose(found.y, y, rtol=1e-13, atol=1e-13)


def outcome(run, inputs):
    """Return outputs and gradients of a loss in which every output has a weight."""

    def loss(parts):
        outputs = run(inputs._replace(**parts))
        wide = jax.tree.map(lambda x: x.astype(inputs.A.dtype), outputs)
        return weigh(wide), outputs

    gradients, outputs = jax.grad(loss, has_aux=True)(differentiable(inputs))
    return outputs, gradients


CASES = {
    "one token": {"length": 1, "options": OPTIONS},
    "groups": {"length": 130, "heads": 4, "groups": 2, "options": OPTIONS},
    "one chunk": {"length": SSD_CHUNK, "heads": 3},
    "bfloat16": {"length": 70, "options": OPTIONS, "dtype": "bfloat16"},
    "float16": {"length": 70, "heads": 4, "groups": 4, "dtype": "float16"},
    "float64": {"length": 70, "options": OPTIONS, "dtype": "float64"},
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_the_definition(case):
    with enable_x64(case == "float64"):
        inputs = make_ssd_inputs(4, **CASES[case])
        outputs, gradients = quick_jit(partial(outcome, run_ssd))(inputs)
    expected = in_float64(partial(outcome, define_ssd), inputs)
    bound = tolerance(inputs.u.dtype)
    assert outputs.y.dtype == inputs.u.dtype
    assert outputs.last_state.dtype == inputs.A.dtype
    assert all(gradients[k].dtype == getattr(inputs, k).dtype for k in gradients)
    assert_close(outputs, expected[0], bound.value, "output")
    assert_close(gradients, expected[1], bound.gradient, "gradient")


TABLE = [
    "grad_and_jvp",
    "jacfwd",
    "jacrev",
    "hessian",
    "linear_transpose_of_vjp",
    "checkpoint",
    "vmap_over_each_operand",
    "vmap_of_grad_over_parameters",
    "grad_of_scan_over_layers",
]


@pytest.mark.parametrize("name", TABLE)
def test_transform_equals_that_of_the_definition(name):
    inputs = make_ssd_inputs(21, **TINY)
    transform = TRANSFORMS[name]
    expected = in_float64(partial(transform, define_ssd), inputs)
    found = quick_jit(partial(transform, run_ssd))(inputs)
    assert_close(found, expected, tolerance("float32").gradient, name)


@cache
def long_inputs():
    return make_ssd_inputs(7, length=2 * SSD_CHUNK + 3, options=OPTIONS)


def test_tangent_across_chunks_equals_that_of_the_definition():
    transform = TRANSFORMS["jvp_along_each_operand"]
    expected = in_float64(partial(transform, define_ssd), long_inputs())
    found = quick_jit(partial(transform, run_ssd))(long_inputs())
    assert_close(found, expected, tolerance("float32").gradient)


def test_strong_and_weak_decays_keep_their_precision():
    """exp(1.6 x 255) is no float32, and sums over thousands of tokens lose digits."""
    inputs = make_ssd_inputs(3, batch=1, length=2048, heads=3, width=1, states=2)
    inputs = inputs._replace(A=jnp.array([-1e-4, -1.0, -300.0]))
    outputs, gradients = quick_jit(partial(outcome, run_ssd))(inputs)
    expected = in_float64(partial(outcome, define_ssd), inputs)
    for a in range(3):  # each head by its own largest number
        close = partial(assert_close, bound=1e-5)
        close(outputs.y[:, :, a], expected[0].y[:, :, a])
        close(outputs.last_state[:, a], expected[0].last_state[:, a])
        for name in ("u", "delta"):
            close(gradients[name][:, :, a], expected[1][name][:, :, a])
        close(gradients["A"][a], expected[1]["A"][a])


def test_sums_between_tokens_keep_their_digits():
    a = jnp.concatenate([jnp.array([3e4]), jnp.full(40, 1e-3)])
    between = jax.jit(running_sums)(a)[1]
    assert_close(between[40, 20], np.float64(np.float32(1e-3)) * 20, 2e-7)
    pairs = np.random.default_rng(0).standard_normal((5, 5)).astype(np.float32)
    expected = [pairs[:t, t:].sum() for t in range(5)]
    assert_close(jax.jit(rectangle_sums)(pairs), np.array(expected), 1e-6)
    assert not np.any(np.isnan(jax.jit(running_sums)(0 * a)[1]))


def test_it_is_the_selective_scan_of_equal_rates():
    inputs = make_ssd_inputs(5, length=SSD_CHUNK + 5, options=OPTIONS)
    flat = {"u": inputs.u, "delta": inputs.delta[..., None].repeat(3, -1)}
    flat = {k: x.reshape(*x.shape[:2], 6) for k, x in flat.items()}
    assert inputs.initial_state is not None
    y, last = selective_scan(
        flat["u"],
        flat["delta"],
        A=jnp.broadcast_to(inputs.A.repeat(3)[:, None], (6, 4)),
        B=inputs.B,
        C=inputs.C,
        initial_state=inputs.initial_state.reshape(2, 6, 4),
        segment_ids=inputs.segment_ids,
    )
    expected = y.reshape(inputs.u.shape), last.reshape(inputs.initial_state.shape)
    assert_close(tuple(run_ssd(inputs)), expected, 2e-6)


@pytest.mark.parametrize("per_channel", [False, True])
def test_steps_equal_the_whole(per_channel):
    """Also bias, softplus, limits and both forms of D, which the two share."""
    x = make_ssd_inputs(6, length=5, heads=4, groups=2, options=("initial_state",))
    D = jnp.asarray(wave(0.5, *((4, 3) if per_channel else (4,))), jnp.float32)
    around = {
        "D": D,
        "delta_bias": jnp.array([-2.0, -1.0, 0.0, 1.0]),
        "delta_softplus": True,
        "delta_limit": (0.2, 1.2),
    }
    whole = ssd(*x[:5], **around, initial_state=x.initial_state)
    state, ys = x.initial_state, []
    assert state is not None
    for t in range(5):
        u, delta, B, C = (v[:, t] for v in (x.u, x.delta, x.B, x.C))
        y, state = ssd_state_update(state, u, delta, x.A, B, C, **around)
        ys.append(y)
    assert_close((jnp.stack(ys, axis=1), state), tuple(whole), 2e-6)
    delta = jax.nn.softplus(x.delta + around["delta_bias"][None, None])
    made = x._replace(delta=jnp.clip(delta, 0.2, 1.2))
    D = D if per_channel else D[:, None]
    assert_close(whole.y, run_ssd(made).y + D[None, None] * x.u, 2e-6)


def test_two_parts_equal_the_whole():
    x = make_ssd_inputs(8, length=80, options=("initial_state",))
    whole = run_ssd(x)
    cut = {k: getattr(x, k) for k in ("u", "delta", "B", "C")}
    first, second = (
        x._replace(**{k: v[:, part] for k, v in cut.items()})
        for part in (slice(0, 30), slice(30, 80))
    )
    before = run_ssd(first)
    after = run_ssd(second._replace(initial_state=before.last_state))
    joined = jnp.concatenate([before.y, after.y], axis=1)
    assert_close((joined, after.last_state), tuple(whole), 2e-6)


def test_permuted_groups_permute_their_heads():
    x = make_ssd_inputs(9, heads=4, groups=2)
    heads, groups = jnp.array([2, 3, 0, 1]), jnp.array([1, 0])
    moved = x._replace(
        u=x.u[:, :, heads],
        delta=x.delta[:, :, heads],
        A=x.A[heads],
        B=x.B[:, :, groups],
        C=x.C[:, :, groups],
    )
    assert_close(run_ssd(moved).y, run_ssd(x).y[:, :, heads], 2e-6)


# What is compiled ---------------------------------------------------------------------


def test_gradient_holds_primal_and_cotangent_on_every_platform():
    traced = jax.jit(partial(outcome, run_ssd)).trace(make_ssd_inputs(options=OPTIONS))
    for platform in ("cpu", "cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text(debug_info=True)
        assert set(re.findall(r"ssd\w*\.(?:xla_chunked|reference)\b", text)) == {
            "ssd.xla_chunked",
            "ssd_cotangent.xla_chunked",
        }


def test_compiled_gradient_holds_no_square_of_the_length():
    length, heads, width = 512, 4, 16
    x = make_ssd_inputs(batch=1, length=length, heads=heads, width=width, states=16)
    compiled = quick_jit(partial(outcome, run_ssd)).lower(x).compile()
    sizes = re.findall(r"f32\[([\d,]+)\]", compiled.as_text() or "")
    largest = max(np.prod([int(n) for n in size.split(",")]) for size in sizes)
    assert largest <= length * heads * width
    memory = compiled.memory_analysis()
    assert memory is not None and memory.temp_size_in_bytes < 16 * 10**6


def test_policy_keeps_it_as_a_product():
    policy = scans_like_products(jax.checkpoint_policies.dots_saveable)
    run = jax.checkpoint(lambda x: jnp.sin(run_ssd(x).y), policy=policy)
    program = jax.make_jaxpr(jax.grad(lambda u, x: weigh(run(x._replace(u=u)))))(
        make_ssd_inputs().u, make_ssd_inputs()
    )
    assert len(re.findall(r"= ssd\[", str(program))) == 1


@pytest.mark.parametrize("over", ["b", "h"])
def test_operands_spread_over_devices(over):
    inputs = make_ssd_inputs(heads=4, groups=2, options=OPTIONS)
    mesh = jax.make_mesh((2,), (over,), axis_types=(jax.sharding.AxisType.Auto,))
    placed = type(inputs)(
        *(
            jax.device_put(
                x, NamedSharding(mesh, P(*(k if k == over else None for k in axes)))
            )
            for x, axes in zip(inputs, SSD.axes.values(), strict=True)
        )
    )
    run = quick_jit(partial(outcome, run_ssd))
    assert_close(run(placed), run(inputs), tolerance("float32").gradient)
