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
    """Time programs in turn, A B C A B C ..., after one run of each to warm up.

    A drift of the machine's speed then meets all of them alike. Each program must
    return only when its work is done.
    """
    for program in programs.values():
        program()
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(runs):
        for name, program in programs.items():
            start = time.perf_counter()
            program()
            seconds[name].append(time.perf_counter() - start)
    return {
        name: Timing(float(np.median(times)), min(times), runs)
        for name, times in seconds.items()
    }
