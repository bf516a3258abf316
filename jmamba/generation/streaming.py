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


Stop = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Called as stop(tokens, running), says which rows end with these tokens."""


class _Listener:
    """A callback, what stops rows, and the exception that ended both."""

    def __init__(self, callback: Callback | None, stop: Stop | None):
        self.callback, self.stop = callback, stop
        self.error: BaseException | None = None

    def hear(self, tokens, running) -> np.ndarray:
        tokens, running = np.asarray(tokens), np.asarray(running)
        if self.error is not None:
            return np.zeros_like(running)
        try:
            if self.callback is not None:
                self.callback(tokens, running)
            if self.stop is not None:
                running = running & ~self.stop(tokens, running)
        except BaseException as error:  # raised again by `listening`
            self.error = error
        return running if self.error is None else np.zeros_like(running)


@contextmanager
def listening(callback: Callback | None, stop: Stop | None = None) -> Iterator[int]:
    """Register a callback for the programs that run inside; yield its number.

    Args:
      callback: called with the tokens of each step.
      stop: called after it, says which rows stop.

    Raises:
      BaseException: what the callback raised, at the end.
    """
    number = next(_NUMBERS)
    listener = _LISTENERS[number] = _Listener(callback, stop)
    try:
        yield number
        jax.effects_barrier()
    finally:
        del _LISTENERS[number]
    if listener.error is not None:
        raise listener.error


def deliver(
    number: Int[Array, ""], tokens: Int[Array, "b"], running: Bool[Array, "b"]
) -> Bool[Array, "b"]:
    """Call a listener from inside a program, in order; return which rows go on."""

    def tell(number, tokens, running):
        return _LISTENERS[int(number)].hear(tokens, running)

    shape = jax.ShapeDtypeStruct(running.shape, jnp.bool_)
    return io_callback(tell, shape, number, tokens, running, ordered=True)
