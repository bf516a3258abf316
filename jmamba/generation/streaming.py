"""Telling a callback on the host what a compiled program has just made.

The program calls `deliver` with the number of a listener rather than the callback
itself, so that a new callback needs no new program.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jaxtyping import Array, Bool, Int

Callback = Callable[[np.ndarray, np.ndarray], Any]
"""Called as callback(tokens, running) with one token per row."""

_NUMBERS = itertools.count()
_LISTENERS: dict[int, "_Listener"] = {}


class _Listener:
    """A callback and the exception that ended it."""

    def __init__(self, callback: Callback):
        self.callback = callback
        self.error: BaseException | None = None

    def hear(self, *values) -> bool:
        try:
            self.callback(*map(np.asarray, values))
        except BaseException as error:  # raised again by `listening`
            self.error = error
        return self.error is None


@contextmanager
def listening(callback: Callback) -> Iterator[int]:
    """Register a callback for the programs that run inside; yield its number.

    Raises:
      BaseException: what the callback raised, at the end.
    """
    number = next(_NUMBERS)
    listener = _LISTENERS[number] = _Listener(callback)
    try:
        yield number
        jax.effects_barrier()
    finally:
        del _LISTENERS[number]
    if listener.error is not None:
        raise listener.error


def deliver(
    number: Int[Array, ""], tokens: Int[Array, "b"], running: Bool[Array, "b"]
) -> Bool[Array, ""]:
    """Call a listener from inside a program, in order; return whether to go on."""

    def tell(number, *values):
        return np.asarray(_LISTENERS[int(number)].hear(*values))

    shape = jax.ShapeDtypeStruct((), jnp.bool_)
    return io_callback(tell, shape, number, tokens, running, ordered=True)
