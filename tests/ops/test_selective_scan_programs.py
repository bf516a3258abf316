"""What is compiled: how often, which maps, for which platform, with how much memory."""

import re

import chex
import jax
import jax.numpy as jnp
import pytest
from helpers import (
    IMPLEMENTATIONS,
    OPTIONS,
    assert_close,
    differentiable,
    make_inputs,
    run_scan,
    tolerance,
)
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jmamba_kernels import ScanInputs

every_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
XLA = ["xla_loop", "xla_chunked"]


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
    "tpu": "xla_chunked",
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


def shapes(batch, length, channels, states, options=()):
    """Return the operands' shapes, without numbers."""
    small = make_inputs(batch=1, length=1, channels=1, states=1, options=options)
    sizes = dict(b=batch, l=length, d=channels, n=states, g=1)
    axes = dict(u="bld", delta="bld", A="dn", B="blgn", C="blgn", D="d", z="bld",
                delta_bias="d", initial_state="bdn", segment_ids="bl")  # fmt: skip
    return ScanInputs(
        **{
            k: jax.ShapeDtypeStruct(tuple(sizes[a] for a in axes[k]), x.dtype)
            for k, x in small._asdict().items()
            if x is not None
        }
    )


@pytest.mark.parametrize("options", [(), ("D", "z", "delta_bias", "initial_state")])
@pytest.mark.parametrize("implementation", XLA)
def test_compiled_gradient_fits_in_memory(implementation, options):
    """No array of b l d n numbers; temporary memory below 64 MB."""
    batch, length, channels, states = 1, 1024, 1536, 16
    inputs = shapes(batch, length, channels, states, options)
    compiled = jax.jit(lambda x: gradient(x, implementation)).lower(inputs).compile()
    largest = 0
    for size in re.findall(r"f32\[([\d,]+)\]", compiled.as_text()):
        count = 1
        for n in size.split(","):
            count *= int(n)
        largest = max(largest, count)
    assert largest <= batch * length * channels
    assert compiled.memory_analysis().temp_size_in_bytes < 64 * 10**6


def mesh_of(*names):
    return jax.make_mesh(
        (2,) * len(names), names, axis_types=(jax.sharding.AxisType.Auto,) * len(names)
    )


SPECS = {
    "batch": ScanInputs(
        u=P("x"), delta=P("x"), A=P(), B=P("x"), C=P("x"), D=P(), z=P("x"),
        delta_bias=P(), initial_state=P("x"), segment_ids=P("x"),
    ),
    "channels": ScanInputs(
        u=P(None, None, "x"), delta=P(None, None, "x"), A=P("x"), B=P(), C=P(),
        D=P("x"), z=P(None, None, "x"), delta_bias=P("x"), initial_state=P(None, "x"),
        segment_ids=P(),
    ),
}  # fmt: skip
OUT_SPECS = {"batch": (P("x"), P("x")), "channels": (P(None, None, "x"), P(None, "x"))}


@pytest.mark.parametrize("over", SPECS)
@pytest.mark.parametrize("implementation", XLA)
def test_scan_under_shard_map_equals_whole(implementation, over):
    inputs = make_inputs(batch=2, channels=4, options=OPTIONS)

    def run(inputs):
        return tuple(run_scan(inputs, implementation))

    sharded = jax.shard_map(
        run,
        mesh=mesh_of("x"),
        in_specs=(SPECS[over],),
        out_specs=OUT_SPECS[over],
    )

    def loss(run, parts):
        y, last_state = run(inputs._replace(**parts))
        return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(last_state)), (y, last_state)

    actual, expected = (
        jax.jit(jax.grad(lambda p, run=run: loss(run, p), has_aux=True))(
            differentiable(inputs)
        )
        for run in (sharded, run)
    )
    assert_close(actual, expected, tolerance("float32").gradient)


@pytest.mark.parametrize("over", SPECS)
@pytest.mark.parametrize("implementation", XLA)
def test_scan_of_sharded_operands_equals_whole(implementation, over):
    inputs = make_inputs(batch=2, channels=4, options=OPTIONS)
    mesh = mesh_of("x")
    placed = jax.tree.map(
        lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)),
        inputs,
        SPECS[over],
    )
    assert len(placed.u.sharding.device_set) == 2
    run = jax.jit(lambda x: (run_scan(x, implementation), gradient(x, implementation)))
    assert_close(run(placed), run(inputs), tolerance("float32").gradient)
