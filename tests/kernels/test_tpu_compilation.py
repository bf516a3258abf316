"""The TPU kernels, compiled by the real TPU compiler on a machine without a TPU."""

import importlib.util
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from models.tiny_models import skeleton

import jmamba
from jmamba.attention import reduced_attention
from jmamba.ops.operation import SELECTIVE_SCAN
from jmamba.planning.exchanges import exchanges_in
from jmamba.training.language import next_token_loss
from jmamba.training.optimizer import make_optimizer
from jmamba.training.step import StepProgram, TrainState, train_step
from jmamba_kernels.selective_scan.pallas_tpu import pallas_tpu

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from tpu_compiler import (  # noqa: E402
    GENERATIONS,
    operands,
    programs,
    sharding,
    start_compiler,
    topology,
)

pytestmark = [
    pytest.mark.usefixtures("optimised_programs"),
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="libtpu is not installed: pip install 'jmamba[compilers]'",
    ),
]
start_compiler()


@pytest.fixture(autouse=True, scope="module")
def _compile_anew():
    """Programs for chips that are not here cannot be read back from a cache."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


MAPS = ("scan", "tangent", "cotangent")
MIB = 2**20


ONE_OF_THEM = [
    pytest.param(one, marks=[] if one == "v5e" else [pytest.mark.exhaustive])
    for one in GENERATIONS
]


def compile_map(name, inputs):
    function, shapes = programs(pallas_tpu(), inputs)[name]
    compiled = jax.jit(function).lower(*shapes).compile()
    assert f"selective_scan_tpu_{name}" in (compiled.as_text() or "")
    return compiled


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("generation", ONE_OF_THEM)
def test_kernel_compiles_for_every_generation(generation, dtype, name):
    inputs = operands(sharding(generation), channels=384, states=8, dtype=dtype)
    compile_map(name, inputs)


# 64 states unroll to the longest program of all
@pytest.mark.parametrize(
    ("name", "states"), [("scan", 4), ("tangent", 32), ("cotangent", 64)]
)
def test_kernel_compiles_for_other_numbers_of_states(name, states):
    inputs = operands(
        sharding("v5e"), length=100, channels=192, states=states, fused=False
    )
    compile_map(name, inputs)


@pytest.mark.parametrize("channels", [768, 2560, 8192])
def test_kernel_compiles_for_every_width(channels):
    place = sharding("v4")
    compile_map("scan", operands(place, channels=channels, states=16, fused=False))


def test_kernel_compiles_with_every_operand():
    place = sharding("v6e")
    inputs = operands(place, batch=2, length=77, channels=512, states=16)
    gates = jax.ShapeDtypeStruct((2, 77, 2, 16), jnp.float32, sharding=place)
    state = jax.ShapeDtypeStruct((2, 512, 16), jnp.float32, sharding=place)
    ids = jax.ShapeDtypeStruct((2, 77), jnp.int32, sharding=place)

    def gradient(inputs, ids):
        def loss(parts):
            y, last_state = jmamba.ops.selective_scan(
                *parts[:8], delta_softplus=True, initial_state=parts[8],
                segment_ids=ids, implementation="pallas_tpu",
            )  # fmt: skip
            return jnp.sum(y) + jnp.sum(last_state)

        return jax.grad(loss)(tuple(inputs))

    inputs = tuple(inputs._replace(B=gates, C=gates, initial_state=state))[:9]
    text = jax.jit(gradient).lower(inputs, ids).compile().as_text() or ""
    assert "selective_scan_tpu_cotangent" in text


@pytest.mark.parametrize("name", MAPS)
def test_compiled_kernel_copies_nothing_large(name):
    """Operands keep their place in memory, and no (b, l, d, n) array exists."""
    inputs = operands(sharding("v5e"), length=2048, channels=2048, states=16)
    memory = compile_map(name, inputs).memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < inputs.u.size * 4 / 16


def on_chip(place, tree):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree
    )


def test_train_step_compiles_with_the_kernel_inside():
    place = sharding("v5e")
    config = jmamba.MambaConfig(vocab_size=256, d_model=64, num_layers=2, d_state=8)
    optimizer = make_optimizer()
    graphdef, parameters = nnx.split(skeleton(config))
    optimizer_state = jax.eval_shape(optimizer.init, parameters)
    step = jnp.zeros((), jnp.int32)
    state = on_chip(place, TrainState(parameters, optimizer_state, step))
    tokens = jax.ShapeDtypeStruct((2, 65), jnp.int32, sharding=place)
    run = partial(train_step, step=StepProgram(graphdef, optimizer, next_token_loss))
    text = jax.jit(run).lower(state, tokens, 1e-3).compile().as_text() or ""
    assert "selective_scan_tpu_scan" in text
    assert "selective_scan_tpu_cotangent" in text


def test_parts_of_sequences_compile_with_the_kernel_inside():
    """Channels over two chips, tokens over two: nobody writes `shard_map`."""
    kinds = (AxisType.Explicit,) * 2
    on = Mesh(np.array(topology("v5e").devices).reshape(2, 2), ("d", "l"), kinds)
    inputs = operands(None, length=512, channels=512, states=8)._asdict()

    def place(name, x):
        letters = (
            letter if letter in "dl" else None for letter in SELECTIVE_SCAN.axes[name]
        )
        there = NamedSharding(on, PartitionSpec(*letters))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there)

    placed = {name: place(name, x) for name, x in inputs.items() if x is not None}

    def loss(parts):
        return jnp.sum(jmamba.ops.selective_scan(**parts).y.astype(jnp.float32) ** 2)

    text = jax.jit(jax.grad(loss)).lower(placed).compile().as_text() or ""
    assert "selective_scan_tpu_cotangent" in text
    found = exchanges_in(text)
    assert {x.kind for x in found} == {"collective-permute", "all-reduce"}


def test_hidden_attention_compiles_with_the_kernel_inside():
    place = sharding("v5e")
    config = jmamba.MambaConfig(vocab_size=256, d_model=64, num_layers=2, d_state=8)
    graphdef, state = nnx.split(skeleton(config))

    def attend(state, tokens):
        layers = jmamba.trace(nnx.merge(graphdef, state), tokens)
        return reduced_attention(jax.tree.map(lambda x: x[-1], layers.recurrence))

    tokens = jax.ShapeDtypeStruct((1, 64), jnp.int32, sharding=place)
    lowered = jax.jit(attend).lower(on_chip(place, state), tokens)
    assert "selective_scan_tpu_scan" in (lowered.compile().as_text() or "")


def read_schedule(folder, *options):
    """Return map -> bundles per token and 1,024 channels, on v5e at n = 16."""
    out = folder / "out.json"
    subprocess.run(
        [sys.executable, BENCHMARKS / "tpu_compile.py", "--generation", "v5e",
         "--shape", "mamba-370m", "--dtype", "float32", "--json", out, *options],
        env={**os.environ, "JAX_PLATFORMS": "cpu"}, check=True, capture_output=True,
    )  # fmt: skip
    return {row["map"]: row["bundles"] for row in json.loads(out.read_text())["rows"]}


@pytest.mark.parametrize(
    ("options", "most"),
    [((), 52), pytest.param(("--bare",), 40, marks=[pytest.mark.exhaustive])],
)
def test_schedule_is_as_short_as_promised(tmp_path, options, most):
    bundles = read_schedule(tmp_path, *options)
    assert bundles["scan"] <= most
    assert bundles["cotangent"] <= 3.2 * bundles["scan"]


def over_chips(run, *, is_mapped):
    """Return the text of a gradient compiled for four chips that split b and d."""
    chips = np.array(topology("v5e").devices).reshape(2, 2)
    mesh = jax.sharding.Mesh(chips, ("rows", "channels"))
    batch, length, channels, states = 4, 64, 1024, 8
    over_time, gate = PartitionSpec("rows", None, "channels"), PartitionSpec("rows")
    specs = (over_time, over_time, PartitionSpec("channels"), gate, gate)
    sizes = ((batch, length, channels),) * 2 + ((channels, states),)
    sizes += ((batch, length, states),) * 2
    if is_mapped:
        run = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=over_time)
    shapes = [
        jax.ShapeDtypeStruct(size, jnp.float32, sharding=NamedSharding(mesh, spec))
        for size, spec in zip(sizes, specs, strict=True)
    ]
    gradient = jax.grad(lambda *x: jnp.sum(run(*x)), argnums=range(5))
    return jax.jit(gradient).lower(*shapes).compile().as_text() or ""


def test_gradient_under_shard_map_runs_the_kernel_on_every_chip():
    text = over_chips(lambda *x: jmamba.ops.selective_scan(*x).y, is_mapped=True)
    assert "selective_scan_tpu_cotangent" in text
    assert "all-reduce" in text
    # a chip's 2 rows and 512 channels, as 8 groups of 8 tokens by 512 / 128 * 8
    assert "f32[2,8,32,128]" in text


def test_gradient_that_xla_splits_over_chips_takes_the_xla_form():
    text = over_chips(lambda *x: jmamba.ops.selective_scan(*x).y, is_mapped=False)
    assert "selective_scan_cotangent.xla_chunked" in text
    assert "selective_scan_tpu" not in text
    # the sums over chips stand behind the loop over chunks
    found = exchanges_in(text)
    assert {(x.kind, x.is_in_loop) for x in found} == {("all-reduce", False)}
