"""Sequences of which each device has a part, beside parts of rows and of channels."""

from collections import Counter
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collectives import exchanges
from flax import nnx
from helpers import OPTIONS, assert_close, make_inputs, needs, quick_jit, run_scan
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from random_models import random_text_model, random_tokens

from jmamba.ops import causal_conv1d, ssd
from jmamba.ops.operation import SELECTIVE_SCAN, SSD

SHAPES = [(1, 1, 8), (2, 1, 4), (1, 2, 4), (2, 2, 2)]
"""Devices along rows, channels and tokens."""


def mesh(shape):
    kinds = (AxisType.Explicit,) * 3
    return jax.make_mesh(shape, ("b", "d", "l"), axis_types=kinds)


def put(x, axes, on):
    spec = P(*(letter if letter in on.axis_names else None for letter in axes))
    return jax.device_put(x, NamedSharding(on, spec))


def operands(on, **sizes):
    inputs = make_inputs(batch=2, channels=4, states=3, **sizes)._asdict()
    inputs = {name: x for name, x in inputs.items() if x is not None}
    placed = {name: put(x, SELECTIVE_SCAN.axes[name], on) for name, x in inputs.items()}
    return inputs, placed


def weigh(out):
    return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(out))


def split(parts):
    ids = {k: x for k, x in parts.items() if k == "segment_ids"}
    return {k: x for k, x in parts.items() if k not in ids}, ids


def scan(parts):
    inputs = make_inputs()._replace(**parts)
    return run_scan(inputs, "xla_loop", delta_softplus=True)._asdict()


def convolve(parts):
    out = causal_conv1d(
        parts["u"],
        jnp.linspace(-1.0, 1.0, 12).reshape(4, 3),
        parts["D"],
        activation="silu",
        initial_state=parts["initial_state"][:, :, :2],
        segment_ids=parts.get("segment_ids"),
    )
    return out._asdict()


def maps(run):
    """Return a program with values, tangents and gradients of an op."""

    def program(parts):
        moving, ids = split(parts)

        def op(moving):
            return run(moving | ids)

        gradient = jax.grad(lambda moving: weigh(op(moving)))
        value, tangent = jax.jvp(op, (moving,), (moving,))
        return value, tangent, gradient(moving)

    return quick_jit(program)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("run", [scan, convolve])
def test_parts_make_the_whole(run, shape):
    """Resets within parts and between them, and a state before the first token."""
    inputs, placed = operands(mesh(shape), length=24, options=OPTIONS)
    program = maps(run)
    found = jax.device_get(program(placed))
    assert_close(found, jax.device_get(program(inputs)), 1e-5)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 2, 2)], ids=str)
def test_parts_of_heads_and_tokens_make_the_whole(shape, groups):
    """Any recurrence that says what is left of its state has this: Mamba-2's here."""
    draw = np.random.default_rng(3)
    inputs = {
        "u": draw.standard_normal((2, 16, 4, 2)),
        "delta": draw.uniform(0.1, 1, (2, 16, 4)),
        "A": -draw.uniform(0.2, 2, 4),
        "B": draw.standard_normal((2, 16, groups, 3)),
        "C": draw.standard_normal((2, 16, groups, 3)),
        "initial_state": draw.standard_normal((2, 4, 2, 3)),
        "segment_ids": np.cumsum(draw.random((2, 16)) < 0.2, axis=1),
    }
    inputs = {
        k: jnp.asarray(x, "int32" if k == "segment_ids" else "float32")
        for k, x in inputs.items()
    }
    on = mesh(shape)
    placed = {
        name: put(x, SSD.axes[name].replace("h", "d"), on) for name, x in inputs.items()
    }
    program = maps(lambda parts: ssd(**parts)._asdict())
    found = jax.device_get(program(placed))
    assert_close(found, jax.device_get(program(inputs)), 1e-5)


def test_groups_of_channels_make_the_whole():
    """Two groups on two devices, one on two, and what none divides."""
    for groups, shape in product((2, 4), ((1, 2, 4), (1, 4, 2))):
        inputs, placed = operands(mesh(shape), length=8, groups=groups)
        program = maps(scan)
        found = jax.device_get(program(placed))
        assert_close(found, jax.device_get(program(inputs)), 1e-5)


def test_second_derivatives_and_vmap_of_parts():
    inputs, placed = operands(mesh((1, 2, 4)), length=8, options=("initial_state",))

    @quick_jit
    def program(parts):
        def gradient(parts):
            return jax.grad(lambda parts: weigh(scan(parts)))(parts)

        mapped = jax.vmap(lambda s: scan(parts | {"u": s * parts["u"]}))(jnp.ones(2))
        return jax.jvp(gradient, (parts,), (parts,))[1], mapped

    found = jax.device_get(program(placed))
    assert_close(found, jax.device_get(program(inputs)), 2e-5)


def test_tokens_over_two_axes_of_the_mesh():
    """In another order than the mesh has them."""
    on = mesh((2, 2, 2))
    inputs, _ = operands(on, length=16, options=("segment_ids",))
    over = {"l": ("d", "b"), "d": "l"}
    placed = {
        name: jax.device_put(
            x, NamedSharding(on, P(*map(over.get, SELECTIVE_SCAN.axes[name])))
        )
        for name, x in inputs.items()
    }
    assert_close(jax.device_get(quick_jit(scan)(placed)), scan(inputs), 1e-5)


@needs("pallas_tpu")
def test_tpus_have_their_kernel():
    """Compiled for one device each: XLA could not split it."""
    _, placed = operands(mesh((2, 2, 2)), length=64)
    run = jax.jit(lambda parts: run_scan(make_inputs()._replace(**parts), None))
    text = run.trace(placed).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") == 2


def test_no_token_travels():
    """States and what is left of them do, in 2 log2(8) and 1 steps; B, C, u do not."""
    _, placed = operands(mesh((1, 1, 8)), length=512)
    found = exchanges(scan, placed)
    count = Counter(x.kind for x in found)
    assert set(count) == {"collective-permute", "all-reduce"}, count
    assert count["all-reduce"] == 1
    state = 2 * 4 * 3
    assert not any(x.is_in_loop or x.numbers > 2 * state for x in found)
    assert sum(x.numbers for x in found) <= (2 * 3 + 1 + 1) * state


def test_gradient_gathers_no_token():
    _, placed = operands(mesh((1, 2, 4)), length=512)
    found = exchanges(jax.grad(lambda parts: weigh(scan(parts))), placed)
    assert {x.kind for x in found} == {"collective-permute", "all-reduce"}
    of_gates = 2 * 2 * (512 // 4) * 3  # summed over the devices that share channels
    others = [x for x in found if x.kind == "collective-permute"]
    assert max(x.numbers for x in others) <= 2 * 2 * 4 * 3
    assert sum(x.numbers for x in found) < of_gates + 1000


def test_convolution_fetches_the_tokens_of_its_window():
    _, placed = operands(mesh((1, 1, 8)), length=64, options=("D", "initial_state"))
    found = exchanges(convolve, placed)
    assert {x.kind for x in found} == {"collective-permute", "all-reduce"}
    assert all(x.numbers == 2 * 2 * 4 for x in found)


CHANNELS = {  # which axis of a parameter the channels are
    "in_proj": 2, "weight": 1, "bias": 1, "x_proj": 1, "dt_proj": 2, "dt_bias": 1,
    "A_log": 1, "D": 1, "out_proj": 1,
}  # fmt: skip


def test_model_reads_parts_of_texts():
    """Rows, channels and tokens of whole models; no activation is gathered."""
    on, length = mesh((2, 2, 2)), 80
    model, tokens = random_text_model(layers=2), random_tokens(4, length)

    def place(path, x):
        keys = [getattr(key, "key", None) for key in path]
        axis = next((CHANNELS[key] for key in keys if key in CHANNELS), None)
        spec = [None] * (axis or 0) + [None if axis is None else "d"]
        return jax.device_put(x, NamedSharding(on, P(*spec)))

    graphdef, state = nnx.split(model)
    placed = nnx.merge(graphdef, jax.tree.map_with_path(place, state))
    there = put(tokens, "bl", on)
    run = quick_jit(lambda model, tokens: tuple(model(tokens)))
    assert_close(jax.device_get(run(placed, there)), tuple(model(tokens)), 1e-5)
    gradient = jax.grad(lambda model, x: weigh(model(x).logits))
    found, expected = (
        jax.tree.leaves(jax.device_get(quick_jit(gradient)(*of)))
        for of in ((placed, there), (model, tokens))
    )
    assert_close(found, expected, 1e-5)
    found = exchanges(gradient, placed, there)
    assert {x.kind for x in found} == {"all-to-all", "collective-permute", "all-reduce"}
    halves = [x for x in found if x.kind == "all-to-all"]
    assert len(halves) == 2  # of the input projection, there and back
    sent = [x for x in found if x.kind == "collective-permute"]
    assert not any(length // 2 in shape for x in sent for shape in x.shapes)
