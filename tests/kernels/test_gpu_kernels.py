"""The GPU kernels, interpreted, in every way they may be cut."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    OPTIONS,
    assert_close,
    differentiable,
    in_float64,
    make_inputs,
    needs,
    quick_jit,
    tolerance,
)

import jmamba_kernels
from jmamba_kernels.selective_scan.contract import CHUNK, some_inputs
from jmamba_kernels.selective_scan.gpu.blocks import Shape, choose_tiling, cut
from jmamba_kernels.selective_scan.gpu.elementwise import (
    log1p_of_fraction,
    softplus_by_series,
)
from jmamba_kernels.selective_scan.gpu.maps import combine_segments
from jmamba_kernels.selective_scan.table import TILINGS
from jmamba_kernels.selective_scan.tilings import MosaicGpuTiling, TritonTiling

reference = jmamba_kernels.load("reference")
BOUND = tolerance("float32")


def cases():
    """Yield kernels cut in several ways, with the number of directions."""
    for tiling, directions, id in [
        (TritonTiling(4, 4, 4, 1), 2, "triton, whole"),
        (TritonTiling(16, 1, 2, 2), 1, "triton, 2 parts"),
        (TritonTiling(2, 2, 1, 9), 3, "triton, chunks"),
        (MosaicGpuTiling(4, 4, 2, 2), 1, "mosaic, 2 parts"),
    ]:
        name = TILINGS[type(tiling)]
        yield pytest.param(name, tiling, directions, id=id, marks=needs(name))


INPUTS = make_inputs(3, batch=1, length=3 * CHUNK + 4, channels=6, states=5, groups=2,
                     options=OPTIONS)  # fmt: skip


def along(tree, directions):
    """Return normal numbers in the shapes of a pytree, for several directions."""
    draw = np.random.default_rng(7)
    return jax.tree.map(
        lambda x: jnp.asarray(draw.standard_normal((directions, *x.shape)), x.dtype),
        tree,
    )


@cache
def expected(directions):
    """Return what the definition's three maps give in float64."""
    wanted = tuple(differentiable(INPUTS))

    def run(inputs, tangents, d_outputs):
        scan = reference.scan(inputs, delta_softplus=True, save_states=True)
        push = reference.tangent(inputs, tangents, delta_softplus=True)
        pull = reference.cotangent(
            inputs, None, *d_outputs, delta_softplus=True, wanted=wanted
        )
        return scan, push, pull

    tangents, d_outputs = operands(directions)
    return in_float64(run, INPUTS, tangents, d_outputs)


def operands(directions):
    """Return tangents of the inputs and cotangents of the outputs."""
    result = reference.scan(INPUTS, delta_softplus=True)
    tangents = some_inputs(**along(differentiable(INPUTS), directions))
    return tangents, along((result.y, result.last_state), directions)


@pytest.mark.parametrize(("name", "tiling", "directions"), [*cases()])
def test_cut_kernel_equals_definition(name, tiling, directions):
    maps = jmamba_kernels.load(name, tiling)
    tangents, d_outputs = operands(directions)
    scan, push, pull = expected(directions)
    run = quick_jit(partial(maps.scan, delta_softplus=True, save_states=True))
    result = run(INPUTS)
    assert_close(result, scan, BOUND.value, "scan")
    run = quick_jit(partial(maps.tangent, delta_softplus=True))
    assert_close(run(INPUTS, tangents), push, BOUND.gradient, "tangent")
    wanted = tuple(differentiable(INPUTS))
    run = quick_jit(partial(maps.cotangent, delta_softplus=True, wanted=wanted))
    pulled = run(INPUTS, result.chunk_states, *d_outputs)
    assert_close(pulled, pull, BOUND.gradient, "cotangent")


@pytest.mark.parametrize(
    ("batch", "length", "segments"), [(8, 2048, 1), (1, 16384, 18), (1, 64, 1)]
)
def test_sequence_is_split_where_rows_do_not_fill_the_chip(batch, length, segments):
    shape = Shape(states_per_lane=16, num_warps=1, tokens=4)
    tiling = choose_tiling(shape, batch, length, 1536, 16)
    assert tiling.segments == segments


def test_blocks_cover_channels_and_chunks():
    k = cut(INPUTS, TritonTiling(4, 1, 4, 3), Shape(4, 1, 4))
    assert (k.n, k.channels_per_block, k.blocks, k.padded) == (8, 16, 2, 32)
    assert k.segments * k.chunks_per_segment >= k.chunks > k.segments


@pytest.mark.parametrize("reverse", [False, True])
def test_combined_segments_follow_the_recurrence(reverse):
    draw = np.random.default_rng(0)
    decay, local = draw.random((2, 1, 5, 3, 2)).astype(np.float32)
    start = draw.random((1, 3, 2)).astype(np.float32)
    starts = combine_segments(*map(jnp.asarray, (decay, local, start)), reverse=reverse)
    h = start
    for s in reversed(range(5)) if reverse else range(5):
        assert_close(starts[:, s], h, 1e-6)
        h = decay[:, s] * h + local[:, s]


def test_softplus_keeps_small_values():
    x = np.linspace(-80, 40, 4001).astype(np.float32)
    exact = np.log1p(np.exp(x.astype(np.float64)))
    error = np.asarray(softplus_by_series(jnp.asarray(x)), np.float64) / exact - 1
    assert np.max(np.abs(error)) < 4e-7
    e = np.linspace(1e-6, 1, 1001).astype(np.float32)
    error = np.asarray(log1p_of_fraction(jnp.asarray(e))) / np.log1p(e) - 1
    assert np.max(np.abs(error)) < 4e-7
