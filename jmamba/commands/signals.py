"""What a signal does to a command."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes, as shells give them to what Ctrl-C or SIGTERM ends."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@contextmanager
def catch_termination() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, by raising `Terminated`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number, frame):
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def resumable() -> Iterator[None]:
    """Say of an interrupted command that it can go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise type(error)("what is done is kept; run it again to go on.") from error
