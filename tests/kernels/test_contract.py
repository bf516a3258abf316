"""The small agreements between implementations and the op."""

import jax
import jax.numpy as jnp
import pytest
from helpers import needs

from jmamba_kernels import (
    CHUNK,
    accumulation_dtype,
    choose,
    load,
    num_chunks,
)
from jmamba_kernels.selective_scan.contract import keep_mask
from jmamba_kernels.selective_scan.table import KERNELS
from jmamba_kernels.selective_scan.tilings import TpuTiling
from jmamba_kernels.targets import PLATFORMS, Service, Target, check_serves


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
def test_choose_xla_takes_the_loop_on_cpus_only(platform):
    expected = "xla_loop" if platform == "cpu" else "xla_chunked"
    assert choose("xla", platform) == (expected, load(expected))


@pytest.fixture
def new_jax(monkeypatch):
    """Let every kernel be served, whatever jax is installed."""
    monkeypatch.setattr(jax, "__version_info__", (99,))


@pytest.mark.usefixtures("new_jax")
@pytest.mark.parametrize(
    ("target", "dtype", "expected"),
    [
        (Target("cpu"), "float32", "xla_loop"),
        (Target("tpu"), "float32", "pallas_tpu"),
        (Target("tpu"), "bfloat16", "pallas_tpu"),
        (Target("tpu"), "float64", "xla_chunked"),
        (Target("tpu", parts=2), "float32", "xla_chunked"),
        (Target("cuda", 7.5), "float32", "xla_chunked"),
        (Target("cuda", 8.0), "bfloat16", "pallas_triton"),
        (Target("cuda", 8.9, parts=2), "float32", "pallas_triton"),
        (Target("cuda", 9.0), "float32", "pallas_mosaic_gpu"),
        (Target("cuda", 9.0), "float64", "xla_chunked"),
        (Target("cuda"), "float32", "xla_chunked"),
        (Target("rocm"), "float32", "xla_chunked"),
    ],
)
def test_choose_takes_a_kernel_where_one_serves(target, dtype, expected):
    assert choose(None, target, dtype=dtype)[0] == expected


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("implementation", ["reference", "xla_loop", "xla_chunked"])
def test_choose_never_replaces_a_named_implementation(implementation, platform):
    chosen = choose(implementation, Target(platform, 7.5), dtype="float64")
    assert chosen == (implementation, load(implementation))


@pytest.mark.parametrize(
    "target", [Target("tpu"), *(Target("cuda", x) for x in (8, 9))]
)
def test_choose_takes_xla_where_jax_is_older_than_the_kernel(target, monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", (0, 7, 2))
    assert choose(None, target)[0] == "xla_chunked"


@pytest.mark.usefixtures("new_jax")
@pytest.mark.parametrize(
    ("implementation", "target"),
    [
        ("pallas_tpu", Target("tpu", parts=2)),
        ("pallas_triton", Target("cuda", 8.9)),
        ("pallas_triton", Target("cuda")),
        ("pallas_mosaic_gpu", Target("cuda", 10.0)),
        ("pallas_triton", Target("cpu")),
    ],
)
def test_choose_takes_a_named_kernel_where_it_runs(implementation, target):
    assert choose(implementation, target)[0] == implementation


@pytest.mark.parametrize(
    ("implementation", "target", "message"),
    [
        ("pallas_tpu", Target("cuda", 9.0), "pallas_tpu is for TPUs, .* cuda 9.0"),
        ("pallas_triton", Target("tpu"), "is for Ampere and Ada GPUs, .* for tpu"),
        ("pallas_triton", Target("cuda", 7.5), "pallas_triton is for .* cuda 7.5"),
        ("pallas_mosaic_gpu", Target("cuda", 8.0), "Hopper and newer .* cuda 8.0"),
        ("pallas_gpu", Target("cuda", 7.5), "pallas_triton is for .* cuda 7.5"),
        ("pallas_gpu", Target("rocm"), "pallas_triton is for .* for rocm. Give"),
    ],
)
def test_choose_refuses_a_kernel_where_it_does_not_run(implementation, target, message):
    with pytest.raises(NotImplementedError, match=message):
        choose(implementation, target)


@pytest.mark.parametrize(
    ("platform", "service", "message"),
    [
        ("cpu", {"interprets": (99, 1)}, "k, interpreted on a CPU, needs jax 99.1"),
        ("tpu", {"compiles": (99,)}, "k needs jax 99 or newer, this is .* Give impl"),
    ],
)
def test_kernel_that_needs_a_newer_jax_is_refused(platform, service, message):
    service = Service("TPUs", "tpu", **service)
    with pytest.raises(NotImplementedError, match=message):
        check_serves("k", service, Target(platform))


@pytest.mark.parametrize("name", [*KERNELS])
def test_choose_refuses_a_kernel_where_jax_is_too_old(name, monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", (0, 7, 2))
    service = KERNELS[name]
    targets = Target("cpu"), Target(service.platform, max(service.capability[0], 1))
    needed = service.interprets, service.compiles
    for target, version in zip(targets, needed, strict=True):
        text = ".".join(map(str, version))
        with pytest.raises(NotImplementedError, match=f"needs jax {text} or newer, th"):
            choose(name, target)


@needs("pallas_tpu")
def test_choose_takes_a_tiling_as_a_name():
    name, maps = choose(TpuTiling(rows=3), "cpu")
    assert name == "pallas_tpu"
    assert getattr(maps.scan, "keywords", None) == {"tiling": TpuTiling(rows=3)}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"rows": 17}, "rows=17 must be 1 to 16"), ({"chunks": 0}, "chunks=0 must be")],
)
def test_tiling_refuses_sizes_that_cannot_be(sizes, message):
    with pytest.raises(ValueError, match=message):
        TpuTiling(**sizes)


def test_choose_asks_the_environment(monkeypatch):
    monkeypatch.setenv("JMAMBA_SCAN", "xla")
    assert choose(None, Target("tpu"))[0] == "xla_chunked"
    assert choose("reference", Target("tpu"))[0] == "reference"
    monkeypatch.setenv("JMAMBA_SCAN", "fast")
    with pytest.raises(ValueError, match="JMAMBA_SCAN='fast' names no implementation"):
        choose(None, Target("tpu"))
