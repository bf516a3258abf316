"""Settings of tests whose time is spent compiling small programs."""

import jax
import pytest


@pytest.fixture(scope="module")
def quick_programs():
    """Compile without optimising, as `helpers.quick_jit` does, also inside the library.

    What is computed stays the same; only tests of memory and speed may not use it.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
