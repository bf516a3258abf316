"""Meshes whose axes are part of types: results are spread as their letters are."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    INTERPRETED,
    OPTIONS,
    XLA_FORMS,
    assert_close,
    differentiable,
    make_inputs,
    quick_jit,
    run_scan,
)
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jmamba.ops import causal_conv1d, selective_state_update
from jmamba.ops.operation import SELECTIVE_SCAN
from jmamba_kernels import ScanInputs

MESH = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)

PLACES = {
    "batch and channels": {"b": "x", "d": "y"},
    "channels and groups": {"d": "x", "g": "x"},
    "sequence": {"l": "x"},
    "sequence and channels": {"l": "x", "d": "y"},
    "channels over two axes": {"d": ("x", "y")},
}
"""Letter -> axes of the mesh."""

# a Mosaic GPU kernel is interpreted in a host callback, which two devices cannot share
KERNELS = [name for name in INTERPRETED if name != "pallas_mosaic_gpu"]

RESULTS = {"y": "bld", "last_state": "bdn"}


def spec(axes, over):
    return P(*(over.get(letter) for letter in axes))


def put(x, axes, over):
    return jax.device_put(x, NamedSharding(MESH, spec(axes, over)))


def assert_spread(arrays, axes, over, lead=""):
    """Assert that types spread arrays by name as their letters are."""
    for name, x in arrays.items():
        found = x.sharding.spec
        expected = spec(lead + axes[name], over)
        assert tuple(found) == tuple(expected), f"{name}: {found}, not {expected}"


def operands(over):
    groups = 2 if "g" in over else 1
    inputs = make_inputs(channels=4, length=8, groups=groups, options=OPTIONS)
    return inputs, ScanInputs(
        *(put(x, SELECTIVE_SCAN.axes[k], over) for k, x in inputs._asdict().items())
    )


def named(outputs):
    return dict(zip(RESULTS, outputs, strict=True))


def weigh(outputs):
    return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(outputs))


def apply_maps(inputs, implementation):
    """Return results of the maps: those like the op's, and those like its operands."""
    parts = differentiable(inputs)

    def run(parts):
        return named(run_scan(inputs._replace(**parts), implementation))

    def gradient(parts):
        return jax.grad(lambda parts: weigh(run(parts)))(parts)

    def layer(u, _):
        return run(parts | {"u": u})["y"], None

    factors = jnp.array([1.0, 0.5])
    like_results = {
        "op": run(parts),
        "jvp": jax.jvp(run, (parts,), (parts,))[1],
        "scan": {"y": jax.lax.scan(layer, parts["u"], None, length=2)[0]},
    }
    like_operands = {
        "grad": gradient(parts),
        "grad of grad": jax.jvp(gradient, (parts,), (parts,))[1],
    }
    vmapped = {
        "sequences": jax.vmap(lambda s: run(parts | {"u": s * parts["u"]}))(factors),
        "rates": jax.vmap(lambda s: run(parts | {"A": s * parts["A"]}))(factors),
    }
    vmapped_gradient = jax.vmap(lambda s: gradient(parts | {"u": s * parts["u"]}))
    return like_results, like_operands, vmapped, vmapped_gradient(factors)


@pytest.mark.parametrize("places", PLACES)
def test_types_of_the_scan_follow_the_letters(places):
    over = PLACES[places]
    _, placed = operands(over)
    found = jax.eval_shape(lambda x: apply_maps(x, None), placed)
    like_results, like_operands, vmapped, vmapped_gradient = found
    for arrays in like_results.values():
        assert_spread(arrays, RESULTS, over)
    for arrays in like_operands.values():
        assert_spread(arrays, SELECTIVE_SCAN.axes, over)
    for arrays in vmapped.values():
        assert_spread(arrays, RESULTS, over, lead="k")
    assert_spread(vmapped_gradient, SELECTIVE_SCAN.axes, over, lead="k")


@pytest.mark.parametrize(
    ("implementation", "places"),
    [(name, "batch and channels") for name in XLA_FORMS]
    + [("xla_loop", "channels and groups")],
)
def test_maps_of_typed_operands_equal_those_of_one_device(implementation, places):
    inputs, placed = operands(PLACES[places])
    maps = quick_jit(lambda x: apply_maps(x, implementation))
    found = jax.device_get(maps(placed))
    assert_close(found, jax.device_get(maps(inputs)), 2e-5)


SURROUNDINGS = {
    "mesh set": lambda: jax.set_mesh(MESH),
    "no mesh set": contextlib.nullcontext,
}


@pytest.mark.parametrize("implementation", KERNELS)
def test_kernels_take_typed_operands(implementation):
    over = PLACES["batch and channels"]
    inputs, placed = operands(over)
    found = quick_jit(lambda x: named(run_scan(x, implementation)))(placed)
    assert_close(jax.device_get(found), named(run_scan(inputs, "xla_loop")), 2e-6)
    assert_spread(found, RESULTS, over)


EAGER = pytest.param(
    lambda f: f,
    id="eager",
    marks=pytest.mark.skipif(
        jax.__version_info__ < (0, 8),
        reason="auto_axes of jax 0.7 takes one result where nothing is traced",
    ),
)


@pytest.mark.parametrize("jit", [pytest.param(jax.jit, id="jit"), EAGER])
@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_ops_take_typed_operands_anywhere(surroundings, jit):
    over = PLACES["batch and channels"]
    inputs, placed = operands(over)
    window, taps = put(jnp.ones((4, 3)), "dk", over), jnp.ones((4, 3))

    def run(inputs, window):
        conv = causal_conv1d(
            inputs.u,
            window,
            inputs.D,
            activation="silu",
            initial_state=inputs.initial_state[:, :, :2],
            segment_ids=inputs.segment_ids,
        )
        step = selective_state_update(
            inputs.initial_state,
            inputs.u[:, 0],
            inputs.delta[:, 0],
            inputs.A,
            inputs.B[:, 0],
            inputs.C[:, 0],
            inputs.D,
            inputs.z[:, 0],
            inputs.delta_bias,
        )
        return named(run_scan(inputs, None)), conv._asdict(), step

    with SURROUNDINGS[surroundings]():
        scanned, conv, step = found = jit(run)(placed, window)
    assert_close(jax.device_get(found), jax.device_get(run(inputs, taps)), 2e-6)
    assert_spread(scanned, RESULTS, over)
    assert_spread(conv, RESULTS | {"last_state": "bdk"}, over)
    assert_spread(named(step), {"y": "bd", "last_state": "bdn"}, over)


@pytest.mark.parametrize("segmented", [False, True])
def test_types_of_the_convolution_follow_the_letters(segmented):
    over = {"b": "x", "d": "y"}
    inputs, placed = operands(over)
    taps = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)

    def maps(x, weight, ids):
        ids = ids if segmented else None

        def run(x, weight):
            return causal_conv1d(x, weight, segment_ids=ids)._asdict()

        def gradient(x, weight):
            return jax.grad(lambda *at: weigh(run(*at)), (0, 1))(x, weight)

        at = x, weight
        mapped = jax.vmap(lambda s: run(s * x, weight))(jnp.ones(2))
        return run(*at), jax.jvp(run, at, at)[1], gradient(*at), mapped

    maps = quick_jit(maps)
    found = maps(placed.u, put(taps, "dk", over), placed.segment_ids)
    expected = maps(inputs.u, taps, inputs.segment_ids)
    assert_close(jax.device_get(found), jax.device_get(expected), 1e-5)
    axes = {"y": "bld", "last_state": "bdk", "x": "bld", "weight": "dk"}
    out, tangent, gradient, mapped = found
    assert_spread(out, axes, over)
    assert_spread(tangent, axes, over)
    assert_spread(dict(zip(("x", "weight"), gradient, strict=True)), axes, over)
    assert_spread(mapped, axes, over, lead="s")


def test_a_mesh_axis_splits_one_letter_of_a_result():
    """Parameters may lie over the axis that splits the batch."""
    inputs, _ = operands({})
    placed = inputs._replace(u=put(inputs.u, "bld", {"b": "x"}))
    placed = placed._replace(A=put(inputs.A, "dn", {"d": "x"}))
    y, last_state = jax.jit(lambda x: run_scan(x, None))(placed)
    assert_close((y, last_state), tuple(run_scan(inputs, None)), 2e-6)
    assert_spread({"y": y, "last_state": last_state}, RESULTS, {"b": "x"})


def test_vmap_over_an_axis_of_the_mesh():
    inputs, placed = operands({"b": "x", "d": "y"})

    def one(u):
        row = jax.tree.map(lambda x: x[:1], (inputs.delta, inputs.B, inputs.C))
        own = ScanInputs(u[None], row[0], inputs.A, row[1], row[2])
        return run_scan(own, None).y[0]

    run = quick_jit(jax.vmap(one))
    found = run(placed.u)
    assert_close(found, run(inputs.u), 2e-6)
    assert_spread({"y": found}, RESULTS, {"b": "x", "d": "y"})
