"""Ctrl-C and SIGTERM that wait until a step is whole."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What stops a run that is to go on later."""


class Preempted(KeyboardInterrupt):
    """Some process of a run was sent SIGTERM, and all of them have saved."""


@contextmanager
def hold_interrupts() -> Iterator[None]:
    """Let signals wait until the block is left; a second one does not.

    Handlers that are Python's own, such as Ctrl-C's, are called then. Without this an
    interrupt could come when a step has used up the state before it and the one after
    it has no name yet.

    Examples:
      >>> before = signal.signal(signal.SIGINT, signal.default_int_handler)
      >>> try:
      ...     with hold_interrupts():
      ...         signal.raise_signal(signal.SIGINT)
      ...         print("whole")
      ... except KeyboardInterrupt:
      ...     print("interrupted")
      whole
      interrupted
      >>> _ = signal.signal(signal.SIGINT, before)
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals come to the main thread only
        return
    came = []
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: call for number, call in handlers.items() if callable(call)}

    def hold(number, frame):
        came.append((number, frame))
        if len(came) > 1:
            before[number](number, frame)

    for number in before:
        signal.signal(number, hold)
    try:
        yield
    finally:
        for number, call in before.items():
            signal.signal(number, call)
    if len(came) == 1:
        number, frame = came[0]
        before[number](number, frame)
