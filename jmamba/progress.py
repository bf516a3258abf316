"""How far a long call is: what it tells its caller."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]
"""Called as progress(stage, done, total) when a part of a stage begins or ends."""


def ignore(stage: str, done: int, total: int) -> None:
    """Report no progress."""


@contextmanager
def timed(stage: str, timings: dict[str, float], progress: Progress) -> Iterator[None]:
    """Note the seconds that a stage takes, and tell its beginning and end."""
    progress(stage, 0, 1)
    start = time.perf_counter()
    yield
    timings[stage] = round(time.perf_counter() - start, 3)
    progress(stage, 1, 1)
