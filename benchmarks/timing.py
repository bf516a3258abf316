"""Timing several programs side by side on a noisy machine."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Timing(NamedTuple):
    """Seconds of one program: the median and the fastest of its runs."""

    median: float
    fastest: float
    runs: int


def interleave(programs: dict[str, Callable[[], object]], runs: int) -> dict:
    """Time programs in turn, A B C A B C ..., each after an untimed run of itself.

    A drift of the machine's speed then meets all of them alike. The untimed run gives
    each its caches and memory, and lets threads of the program before, which may spin
    for 0.2 s while they wait for more, go to sleep. Each program must return only when
    its work is done.
    """
    return {
        name: Timing(float(np.median(times)), min(times), runs)
        for name, times in interleave_rounds(programs, runs).items()
    }


def interleave_rounds(
    programs: dict[str, Callable[[], object]], runs: int
) -> dict[str, list[float]]:
    """Return the seconds of every run of each program; see `interleave`."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(runs):
        for name, program in programs.items():
            program()
            start = time.perf_counter()
            program()
            seconds[name].append(time.perf_counter() - start)
    return seconds
