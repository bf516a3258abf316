"""The TPU kernels with the memory of a TPU: its interpreter, and cuts of every kind."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import OPTIONS, assert_close, make_inputs, needs, quick_jit, tolerance
from jax.experimental.pallas import tpu as pltpu

import jmamba_kernels
from jmamba_kernels.selective_scan.contract import some_inputs
from jmamba_kernels.selective_scan.tilings import TpuTiling
from jmamba_kernels.selective_scan.tpu.layout import (
    VMEM_BYTES,
    block_bytes,
    choose_rows,
)

pytestmark = pytest.mark.usefixtures("optimised_programs")

reference = jmamba_kernels.load("reference")
BOUND = tolerance("float32").gradient


def draw(seed, like):
    values = np.random.default_rng(seed).standard_normal(like.shape)
    return jnp.asarray(values, like.dtype)


def run_maps(maps, inputs, directions):
    """Return what the three maps of an implementation give."""
    result = maps.scan(inputs, delta_softplus=True, save_states=True)
    moving = {
        name: x
        for name, x in inputs._asdict().items()
        if x is not None and name != "segment_ids"
    }
    tangents = some_inputs(
        **{
            name: draw(i, jnp.stack([x] * directions))
            for i, (name, x) in enumerate(moving.items())
        }
    )
    d_y = draw(20, jnp.stack([result.y] * directions))
    d_last_state = draw(21, jnp.stack([result.last_state] * directions))
    pushed = maps.tangent(inputs, tangents, delta_softplus=True)
    pulled = maps.cotangent(
        inputs, result.chunk_states, d_y, d_last_state, delta_softplus=True,
        wanted=tuple(moving),
    )  # fmt: skip
    return result, pushed, pulled


def check(tiling, inputs, directions):
    maps = jmamba_kernels.load("pallas_tpu", tiling)
    actual = quick_jit(partial(run_maps, maps, directions=directions))(inputs)
    expected = quick_jit(partial(run_maps, reference, directions=directions))(inputs)
    assert_close(actual, expected, BOUND)


@needs("pallas_tpu")
def test_kernels_keep_to_the_memory_of_a_tpu():
    """No read of what was not written (it holds NaN), none out of bounds."""
    inputs = make_inputs(
        3, batch=1, length=33, channels=130, states=2, groups=1, options=OPTIONS
    )
    with pltpu.force_tpu_interpret_mode(pltpu.InterpretParams()):
        check(TpuTiling(rows=1, chunks=1), inputs, directions=1)


@pytest.mark.exhaustive
@needs("pallas_tpu")
@pytest.mark.parametrize(
    ("tiling", "directions"),
    [(TpuTiling(rows=1, chunks=2, directions=2), 3), (TpuTiling(rows=2, chunks=9), 1)],
)
def test_kernels_may_be_cut_in_every_way(tiling, directions):
    inputs = make_inputs(
        4, batch=2, length=70, channels=260, states=3, groups=2, options=OPTIONS
    )
    check(tiling, inputs, directions)


@pytest.mark.parametrize(
    ("channels", "states", "rows"),
    [(192, 16, 2), (384, 16, 3), (768, 16, 6), (1536, 16, 12), (2048, 16, 16),
     (2560, 16, 10), (5120, 16, 8), (8192, 16, 16), (2048, 64, 8)],
)  # fmt: skip
def test_rows_cover_the_channels_and_fit_in_memory(channels, states, rows):
    assert choose_rows(channels, states) == rows
    assert rows * 128 * -(-channels // (rows * 128)) - channels < 128
    assert block_bytes(rows, states) <= VMEM_BYTES


@needs("pallas_tpu")
def test_kernels_of_one_call_are_named():
    inputs = make_inputs(5, length=9)
    maps = jmamba_kernels.load("pallas_tpu")
    run = jax.jit(partial(maps.scan, delta_softplus=False))
    lowered = run.trace(inputs).lower(lowering_platforms=("tpu",))
    assert "selective_scan_tpu_scan" in lowered.as_text()
