"""A run of two real processes that is killed goes on, also on one with another mesh."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close

from jmamba import MambaConfig, MambaLM, Sharding
from jmamba.analysis import AnalysedDocuments
from jmamba.training.metrics import METRICS, read_metrics

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


def start_command(words, processes: int) -> list[subprocess.Popen]:
    """Start a command of jmamba in several processes, of four devices in all."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    count = 4 // processes
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}
    joined = f"--coordinator localhost:{port} --processes {processes} --process"
    return [
        subprocess.Popen(
            [sys.executable, "-m", "jmamba", *map(str, words),
             *([*joined.split(), f"{number}"] if processes > 1 else [])],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | flags,
        )
        for number in range(processes)
    ]  # fmt: skip


def outputs(run: list[subprocess.Popen]) -> list[tuple[str, str]]:
    """Wait for processes to end well, and return what they said."""
    said = [process.communicate(timeout=600) for process in run]
    assert [process.returncode for process in run] == [0] * len(run), said
    return said


SIZES = ("--d-model 16 --num-layers 1 --d-state 4 --batch 8 --length 16 --warmup 2 "
         "--dtype float32 --evaluate-every 100 --save-every 20").split()  # fmt: skip


@pytest.mark.exhaustive
def test_the_command_trains_in_two_processes(tmp_path, fast_programs):
    """SIGTERM to one ends both with 0; they go on, and end as one process does."""
    text = tmp_path / "text.txt"
    text.write_bytes(b"the cat sat on the mat. " * 400)
    options = [*SIZES, "--steps", STEPS, "--mesh", "data=2,fsdp=2"]
    two, one = tmp_path / "two", tmp_path / "one"
    run = start_command(["train", text, "--out", two, *options], 2)
    wait_for_state(two, run, after=0)
    run[1].send_signal(signal.SIGTERM)
    said = outputs(run)
    assert "Ended by SIGTERM; what is done is kept" in said[0][1]
    stopped = max(states_in(two))
    assert 0 < stopped < STEPS and max(losses_in(two)) == stopped
    said = outputs(start_command(["train", text, "--out", two, *options], 2))
    assert ["bits per byte on the last" in out for out, _ in said] == [True, False]
    outputs(start_command(["train", text, "--out", one, *options], 1))
    found, expected = losses_in(two), losses_in(one)
    assert sorted(found) == sorted(expected) == [*range(1, STEPS + 1)]
    assert largest_difference(found, expected) < 1e-5
    evaluated = [
        {k: row["held_out"] for k, row in read_metrics(x / METRICS).items()
         if "held_out" in row}
        for x in (two, one)
    ]  # fmt: skip
    assert sorted(evaluated[0]) == sorted(evaluated[1]) == [100, 200, 300]
    assert largest_difference(evaluated[0], evaluated[1]) < 1e-5
    both = [MambaLM.from_pretrained(x / "best") for x in (two, one)]
    tokens = jax.numpy.asarray([list(b"the cat")])
    assert_close(both[0](tokens).logits, both[1](tokens).logits, 1e-4)


@pytest.mark.exhaustive
def test_two_processes_analyse_what_one_does(tmp_path, fast_programs):
    config = MambaConfig(vocab_size=256, d_model=8, num_layers=2, d_state=4)
    model = MambaLM(config, rngs=nnx.Rngs(0))
    model.save_pretrained(tmp_path / "model", tokenizer="bytes")
    file = tmp_path / "texts.jsonl"
    lines = [{"text": "a cat " * (1 + i % 3)} for i in range(6)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = []
    for processes in (2, 1):
        out = tmp_path / f"{processes}"
        words = f"--what rows,lens --mesh data=2,fsdp=2 --batch 4 --out {out}".split()
        words = ["analyse", file, "--model", tmp_path / "model", *words]
        said = outputs(start_command(words, processes))
        assert "of 6 of 6 documents" in said[0][0]
        found.append(AnalysedDocuments(out))
    for number in range(6):
        two, one = (x.document(number) for x in found)
        assert two.keys() == one.keys()
        for name, x in one.items():
            np.testing.assert_allclose(two[name], x, rtol=1e-5, atol=1e-6)
