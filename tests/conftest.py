"""Settings under which every test runs.

Types: dtypes are never promoted implicitly, ranks neither, and jaxtyping's annotations
are checked at run time by beartype. A test that uses `pytest.raises` runs without the
annotation checks, since it asks what a user sees, who does not have them; where
`raises` is hidden in a helper, ask for the fixture `unchecked`. So do slow tests, which
the checks make a sixth slower; of every file some are quick.

Programs: compiled ones are kept in .jax_cache, or where JAX_COMPILATION_CACHE_DIR says,
so that a second run is about twice as fast as the first. They are not optimised, but
where a test asks for the fixture `optimised_programs`.

Slow tests: those that slow.txt lists, `-m "not slow"` leaves them out; find_slow.py
makes the list.

Exhaustive tests: what takes minutes and shows in large what others hold in small
(notebooks, processes that are killed, recipes at length, kernels for every chip) is
left out unless it is asked for, by `-m exhaustive`. exhaustive.txt lists those that
show once more, of another model, method or option, what a test beside them holds.

Devices: tests run on the CPU unless JAX_PLATFORMS says otherwise. The CPU counts as 8
devices, so that sharding is tested without hardware.
"""

import inspect
import os
from pathlib import Path

# with libtpu installed, jax would otherwise look for a TPU at every start
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# compiled programs are shared by all workers of a run, and found by the next one
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
# in this process and in those that tests start; see `optimised_programs`
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import hypothesis
import jax
import jaxtyping
import pytest
from jax._src import compiler
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

install_import_hook(["jmamba", "jmamba_kernels"], "beartype.beartype")

from quick_programs import quicken  # noqa: E402 (asks XLA: devices are set by now)

compiler.get_compile_options = quicken(compiler.get_compile_options)

hypothesis.settings.register_profile(
    "quick",
    deadline=None,  # the first example of a shape compiles
    max_examples=5,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("quick")


def pytest_collection_modifyitems(items):
    """Mark the tests that slow.txt lists, and those that are exhaustive."""
    here = Path(__file__).parent
    slow = set((here / "slow.txt").read_text().split())
    again = set((here / "exhaustive.txt").read_text().splitlines())
    for item in items:
        if item.nodeid in again or item.nodeid.split("[")[0] in again:
            item.add_marker(pytest.mark.exhaustive)
        is_long = item.get_closest_marker("exhaustive") is not None
        if is_long or item.nodeid.split("[")[0] in slow:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Let go of a module's compiled programs: gigabytes by the end otherwise."""
    yield
    jax.clear_caches()


@pytest.fixture
def unchecked():
    """Run a test without the annotation checks, as a user would."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def _choose_whether_annotations_are_checked(request):
    function = getattr(request, "function", None)  # a doctest has none
    code = getattr(inspect.unwrap(function), "__code__", None) if function else None
    is_raising = code is not None and "raises" in code.co_names
    if is_raising or request.node.get_closest_marker("slow"):
        request.getfixturevalue("unchecked")


@pytest.fixture(scope="module")
def optimised_programs():
    """Compile as users do: for oracles of values, and for what programs hold and take.

    All other tests compile without optimising, which takes about half as long and
    computes the same.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
        yield
    jax.config.update("jax_disable_most_optimizations", before)
