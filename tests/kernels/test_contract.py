"""The small agreements between implementations and the op."""

import jax.numpy as jnp
import pytest

from jmamba_kernels import (
    CHUNK,
    IMPLEMENTATIONS,
    accumulation_dtype,
    choose,
    num_chunks,
)
from jmamba_kernels.contract import keep_mask
from jmamba_kernels.table import PLATFORMS


def test_keep_mask_is_zero_where_segments_start():
    ids = jnp.array([[3, 3, 1, 1, 3], [0, 1, 2, 2, 2]])
    expected = [[1, 1, 0, 1, 0], [1, 0, 0, 1, 1]]
    assert keep_mask(ids).astype(int).tolist() == expected


@pytest.mark.parametrize(
    ("length", "chunks"), [(1, 1), (CHUNK, 1), (CHUNK + 1, 2), (10 * CHUNK, 10)]
)
def test_num_chunks_covers_the_length(length, chunks):
    assert num_chunks(length) == chunks


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
    ],
)
def test_accumulation_dtype_is_float32_or_better(dtype, expected):
    assert accumulation_dtype(jnp.dtype(dtype)) == jnp.dtype(expected)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("implementation", [None, "xla"])
def test_choose_takes_the_loop_on_cpus_only(implementation, platform):
    expected = "xla_loop" if platform == "cpu" else "xla_chunked"
    assert choose(implementation, platform) == expected


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_choose_never_replaces_a_named_implementation(implementation, platform):
    assert choose(implementation, platform) == implementation
