"""Programs that compile quickly, unoptimised: for tests of what programs compute."""

from functools import partial

import jax


def _options_known_here() -> dict[str, int | bool]:
    """Return XLA's options that make compiling quick, of those that it has here."""
    level = {"xla_backend_optimization_level": 0}
    emitters = {"xla_cpu_use_fusion_emitters": False}  # these take half of the time
    try:
        jax.jit(lambda x: x, compiler_options=emitters)(0.0)
    except jax.errors.JaxRuntimeError:  # gone in newer ones
        return level
    return level | emitters


QUICK_OPTIONS = _options_known_here()

quick_jit = partial(jax.jit, compiler_options=QUICK_OPTIONS)
"""jit that compiles up to four times as fast."""


def quicken(make_options):
    """Let a maker of compile options add the quick ones where nothing is optimised.

    JAX takes most options per program only; this hook is for all programs.
    """

    def make(*args, backend=None, env_options_overrides=None, **others):
        options = dict(env_options_overrides or {})
        quick = jax.config.read("jax_disable_most_optimizations")
        if quick and backend is not None and backend.platform == "cpu":
            options = QUICK_OPTIONS | options
        return make_options(
            *args, backend=backend, env_options_overrides=options, **others
        )

    return make
