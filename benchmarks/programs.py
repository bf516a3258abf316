"""Programs that are compiled once and run many times."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Compiled(NamedTuple):
    """A program that runs a compiled function and waits for it."""

    run: Any
    args: tuple

    def __call__(self):
        return jax.block_until_ready(self.run(*self.args))

    @property
    def temp_bytes(self) -> int:
        """What it holds beside its operands and results."""
        return self.run.memory_analysis().temp_size_in_bytes


def jax_program(function: Callable, *args: Any) -> Compiled:
    """Compile a function of pytrees for its arguments."""
    return Compiled(jax.jit(function).lower(*args).compile(), args)
