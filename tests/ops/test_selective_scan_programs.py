"""What is compiled: how often, which maps, for which platform, with how much memory."""

import math
import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import pytest
from helpers import (
    IMPLEMENTATIONS,
    INTERPRETED,
    OPTIONS,
    XLA_FORMS,
    assert_close,
    differentiable,
    kernels_at_length,
    make_inputs,
    quick_jit,
    run_scan,
    tolerance,
)
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jmamba_kernels import ScanInputs
from jmamba_kernels.selective_scan.table import KERNELS
from jmamba_kernels.targets import is_compiled

pytestmark = pytest.mark.usefixtures("optimised_programs")

every_implementation = pytest.mark.parametrize("implementation", XLA_FORMS)
XLA = ["xla_loop", "xla_chunked"]
# a Mosaic GPU kernel is interpreted in a host callback, which two devices cannot share
ON_DEVICES = [*XLA, *(name for name in INTERPRETED if name != "pallas_mosaic_gpu")]
ON_ONE_DEVICE = "xla_loop"
"""What scans on several devices are compared with."""


def gradient(inputs, implementation=None):
    """Return the gradients of every operand of a loss on both outputs."""

    def loss(parts):
        y, last_state = run_scan(inputs._replace(**parts), implementation)
        return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(last_state))

    return jax.grad(loss)(differentiable(inputs))


@every_implementation
def test_scan_is_traced_once_per_shape(implementation):
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(1)
    def run(inputs):
        return run_scan(inputs, implementation)

    @jax.jit
    @chex.assert_max_traces(1)
    def differentiate(inputs):
        return gradient(inputs, implementation)

    for seed in range(3):
        run(make_inputs(seed, options=OPTIONS))
        differentiate(make_inputs(seed, options=OPTIONS))


def test_scan_outside_jit_is_compiled_once_per_shape():
    inputs = [make_inputs(seed, length=11, options=("D",)) for seed in range(3)]
    run_scan(inputs[0], None)
    with jax.no_tracing():
        for x in inputs[1:]:
            run_scan(x, None)


def lowered_forms(lowered):
    """Return the scopes "map.implementation" of the scans in a lowered program."""
    text = lowered.as_text(debug_info=True)
    names = "|".join(IMPLEMENTATIONS)
    return set(re.findall(rf"selective_scan\w*\.(?:{names})\b", text))


@every_implementation
def test_jitted_gradient_holds_primal_and_cotangent_only(implementation):
    inputs = make_inputs(options=OPTIONS)
    traced = jax.jit(lambda x: gradient(x, implementation)).trace(inputs)
    assert lowered_forms(traced.lower()) == {
        f"selective_scan.{implementation}",
        f"selective_scan_cotangent.{implementation}",
    }
    bound = set(re.findall(r"= (selective_scan\w*)\[", str(traced.jaxpr)))
    assert bound == {"selective_scan", "selective_scan_cotangent"}


PLATFORM_FORMS = {
    "cpu": "xla_loop",
    "cuda": "xla_chunked",
    "rocm": "xla_chunked",
    "tpu": "pallas_tpu" if is_compiled(KERNELS["pallas_tpu"]) else "xla_chunked",
}


@pytest.mark.parametrize("platform", PLATFORM_FORMS)
def test_implementation_is_chosen_when_lowered(platform):
    traced = jax.jit(gradient).trace(make_inputs(options=OPTIONS))
    lowered = traced.lower(lowering_platforms=(platform,))
    assert lowered_forms(lowered) == {
        f"selective_scan.{PLATFORM_FORMS[platform]}",
        f"selective_scan_cotangent.{PLATFORM_FORMS[platform]}",
    }


@pytest.mark.parametrize("platform", PLATFORM_FORMS)
def test_named_implementation_is_lowered_everywhere(platform):
    traced = jax.jit(lambda x: run_scan(x, "reference")).trace(make_inputs())
    lowered = traced.lower(lowering_platforms=(platform,))
    assert lowered_forms(lowered) == {"selective_scan.reference"}


@pytest.mark.parametrize("options", [(), ("D", "z", "delta_bias", "initial_state")])
@pytest.mark.parametrize("implementation", XLA)
def test_compiled_gradient_fits_in_memory(implementation, options):
    """No array of b l d n numbers; temporary memory below 64 MB."""
    batch, length, channels, states = 1, 1024, 1536, 16
    inputs = make_inputs(
        batch=batch, length=length, channels=channels, states=states, options=options
    )
    compiled = jax.jit(lambda x: gradient(x, implementation)).lower(inputs).compile()
    largest = 0
    for size in re.findall(r"f32\[([\d,]+)\]", compiled.as_text() or ""):
        count = 1
        for n in size.split(","):
            count *= int(n)
        largest = max(largest, count)
    assert largest <= batch * length * channels
    memory = compiled.memory_analysis()
    assert memory is not None and memory.temp_size_in_bytes < 64 * 10**6


ROWS, CHANNELS, STATE_CHANNELS = P("x"), P(None, None, "x"), P(None, "x")
SPECS = {
    "batch": dict(
        u=ROWS, delta=ROWS, A=P(), B=ROWS, C=ROWS, D=P(), z=ROWS, delta_bias=P(),
        initial_state=ROWS, segment_ids=ROWS,
    ),
    "channels": dict(
        u=CHANNELS, delta=CHANNELS, A=P("x"), B=P(), C=P(), D=P("x"), z=CHANNELS,
        delta_bias=P("x"), initial_state=STATE_CHANNELS, segment_ids=P(),
    ),
}  # fmt: skip
OUT_SPECS = {"batch": (ROWS, ROWS), "channels": (CHANNELS, STATE_CHANNELS)}


def two_devices():
    return jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))


def weigh(outputs):
    y, last_state = outputs
    return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(last_state))


@pytest.mark.parametrize("over", SPECS)
@pytest.mark.parametrize("implementation", ON_DEVICES)
def test_scan_under_shard_map_equals_whole(implementation, over):
    parts = make_inputs(batch=2, channels=4, options=OPTIONS)._asdict()
    segment_ids = parts.pop("segment_ids")

    def run(parts, segment_ids, implementation=implementation):
        inputs = ScanInputs(**parts, segment_ids=segment_ids)
        return tuple(run_scan(inputs, implementation))

    specs = dict(SPECS[over])
    segment_spec = specs.pop("segment_ids")
    sharded = jax.shard_map(
        run,
        mesh=two_devices(),
        in_specs=(specs, segment_spec),
        out_specs=OUT_SPECS[over],
    )

    def outcome(run):
        def loss(parts):
            outputs = run(parts, segment_ids)
            return weigh(outputs), outputs

        return quick_jit(jax.grad(loss, has_aux=True))(parts)

    whole = partial(run, implementation=ON_ONE_DEVICE)
    assert_close(outcome(sharded), outcome(whole), tolerance("float32").gradient)


@pytest.mark.parametrize("over", SPECS)
@pytest.mark.parametrize("implementation", kernels_at_length(ON_DEVICES))
def test_scan_of_sharded_operands_equals_whole(implementation, over):
    inputs = make_inputs(batch=2, channels=4, options=OPTIONS)
    mesh = two_devices()
    placed = ScanInputs(
        *(
            jax.device_put(x, NamedSharding(mesh, SPECS[over][name]))
            for name, x in inputs._asdict().items()
        )
    )
    assert len(placed.u.sharding.device_set) == 2

    def run(inputs, implementation):
        return run_scan(inputs, implementation), gradient(inputs, implementation)

    run = quick_jit(run, static_argnums=1)
    found, whole = run(placed, implementation), run(inputs, ON_ONE_DEVICE)
    assert_close(found, whole, tolerance("float32").gradient)


def large_broadcasts_in_loops(text, size):
    """Return computations other than the entry that write out a broadcast array."""
    computation, made_in = "", {}
    makers = set()
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%(\S+) \(", line):
            computation = "ENTRY" if head[1] else head[2]
        elif made := re.search(r"= \w+\[([\d,]+)\]\S* broadcast\(", line):
            if size <= math.prod(int(n) for n in made[1].split(",")):
                makers.add(computation)
        elif called := re.search(r" fusion\(.*calls=%([\w.\-]+)", line):
            made_in[called[1]] = computation
    return {made_in.get(name, name) for name in makers} - {"ENTRY"}


@pytest.mark.parametrize("implementation", XLA)
def test_cotangent_of_a_sum_is_written_out_once(implementation):
    """In each chunk, a broadcast constant would make the time quadratic."""
    inputs = make_inputs(length=1024, channels=64, states=4)

    def total(parts):
        return run_scan(inputs._replace(**parts), implementation).y.sum()

    program = jax.jit(jax.grad(total)).lower(differentiable(inputs)).compile()
    text, size = program.as_text() or "", inputs.u.size
    assert re.search(r" while\(", text)
    assert not large_broadcasts_in_loops(text, size)
