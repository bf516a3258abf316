"""A run of two real processes that is killed goes on, also on one with another mesh."""

import os
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jmamba import Sharding

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from restarts import (
    finish,
    largest_difference,
    losses_in,
    start,
    states_in,
    work,
)

STEPS, EVERY = 300, 20


@pytest.fixture
def fast_programs(tmp_path, monkeypatch):
    """Compile as users do: the programs run hundreds of steps."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([f"{root}", f"{root}/kernels"]))


def wait_for_state(folder: Path, run, after: int) -> None:
    """Wait until a state of a later step is saved."""
    while max(states_in(folder), default=0) <= after:
        assert all(process.poll() is None for process in run), "it has ended"
        time.sleep(0.01)


def test_one_process_has_the_rows_of_all_its_devices():
    sharding = Sharding(data=2, fsdp=2, devices=jax.devices()[:4])
    assert sharding.rows_here(8).tolist() == [*range(8)]
    with pytest.raises(ValueError, match="6 rows is not divided by data x fsdp = 4"):
        sharding.rows_here(6)
    batch = {"tokens": np.arange(16).reshape(8, 2), "labels": np.arange(8)}
    placed = sharding.place_batch(batch, rows=8)
    assert all(np.array_equal(placed[name], x) for name, x in batch.items())


@pytest.mark.exhaustive
def test_killed_processes_lose_nothing_and_one_goes_on_for_two(tmp_path, fast_programs):
    """kill -9 of one, SIGTERM of one, then one process with another mesh."""
    whole, out = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, out):
        folder.mkdir()
    options = {"steps": STEPS, "save_every": EVERY}
    run = start(out, 2, **options)
    wait_for_state(out, run, after=0)
    run[1].send_signal(signal.SIGKILL)
    run[0].kill()  # it would wait for the other one
    for process in run:
        process.communicate()
    reached = max(losses_in(out))
    saved = max(states_in(out))
    assert reached - EVERY <= saved < STEPS
    run = start(out, 2, **options)
    wait_for_state(out, run, after=saved)
    run[1].send_signal(signal.SIGTERM)
    finish(run)  # both end with 0
    stopped = max(states_in(out))
    assert saved < stopped < STEPS and max(losses_in(out)) == stopped
    finish(start(out, 1, **options))
    work(whole, None, **options)
    found, expected = losses_in(out), losses_in(whole)
    assert sorted(found) == sorted(expected) == [*range(1, STEPS + 1)]
    assert largest_difference(found, expected) < 1e-5
