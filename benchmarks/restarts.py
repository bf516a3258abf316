"""Kills runs of two processes at random moments, and compares what comes of them.

python benchmarks/restarts.py --kills 20 [--seed 0] [--steps 600]

A run that nobody disturbs is made first. Then a run of two processes, which
jax.distributed joins (two virtual devices of a CPU each, batches read by the process
whose devices have them), is killed over and over: one of the processes, or both, by
SIGKILL after a random time. It goes on every time on two processes, or on one with
another mesh, until it has come to its end, and begins anew. Every step's loss must be
that of the run which nobody disturbed, and no state that was there may be lost.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

TOLERANCE = 1e-5
"""Relative difference of losses: meshes add up in another order."""

TWO, ONE = "data=2,fsdp=2", "tensor=2,fsdp=2"
"""The mesh of two processes, and that of one."""


def work(folder: Path, mesh: str | None, steps: int, save_every: int) -> None:
    """Train, as one of the processes of a run; without a mesh, on one device."""
    import jax
    import numpy as np

    from jmamba import MambaConfig, Sharding
    from jmamba.training import TrainConfig, new_model, train
    from jmamba.training.metrics import METRICS, MetricsLog

    config = MambaConfig(vocab_size=256, d_model=16, num_layers=1, d_state=4)
    settings = TrainConfig(steps, 8, 16, warmup=2, save_every=save_every)
    text = np.frombuffer(b"the cat sat on the mat. " * 200, np.uint8)
    sharding = None if mesh is None else Sharding.parse(mesh)
    with closing(MetricsLog(folder / METRICS)) as log:

        def report(step):
            if jax.process_index() == 0:
                log.append(step.step, loss=step.loss)

        train(
            new_model(config, 0), text, settings, sharding=sharding,
            directory=folder / "state", report=report,
        )  # fmt: skip


def start(folder: Path, processes: int, **options) -> list[subprocess.Popen]:
    """Start the processes of a run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    mesh = TWO if processes == 2 else ONE
    given = {"folder": folder, "mesh": mesh, "processes": processes, "port": port}
    words = [f"--{k}={v}" for k, v in (given | options).items()]
    return [
        subprocess.Popen(
            [sys.executable, __file__, *words, f"--worker={number}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]


def join(options: argparse.Namespace) -> None:
    """Be a process of a run."""
    import jax

    jax.config.update("jax_num_cpu_devices", 4 // options.processes)
    jax.config.update("jax_platforms", "cpu")
    if options.processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            f"localhost:{options.port}", options.processes, options.worker
        )
    try:
        work(options.folder, options.mesh, options.steps, options.save_every)
    except KeyboardInterrupt:  # a process of the run was sent SIGTERM: all have saved
        pass


def finish(run: list[subprocess.Popen]) -> None:
    """Wait until a run has come to its end.

    Raises:
      RuntimeError: it has not come to it.
    """
    errors = [process.communicate(timeout=600)[1] for process in run]
    if any(process.returncode for process in run):
        raise RuntimeError("\n".join(error[-3000:] for error in errors))


def kill(run: list[subprocess.Popen], delay: float, which: list[int]) -> bool:
    """Kill processes of a run after a while; return whether it was under way.

    What is left of it waits for those that are gone, and is ended, too.
    """
    time.sleep(delay)
    was_alive = all(process.poll() is None for process in run)
    for number in which:
        run[number].send_signal(signal.SIGKILL)
    time.sleep(0.2)
    for process in run:
        process.kill()
        process.communicate()
    return was_alive


def wait_for_step(run: list[subprocess.Popen], folder: Path) -> None:
    """Wait until a run makes steps, or has ended."""
    before = age(folder)
    while age(folder) == before and all(process.poll() is None for process in run):
        time.sleep(0.02)


def age(folder: Path) -> float:
    """Return when the last step was written down; 0 if none was."""
    file = folder / "metrics.jsonl"
    return file.stat().st_mtime if file.is_file() else 0.0


def losses_in(folder: Path) -> dict[int, float]:
    """Return step -> loss; of steps that came again the last one."""
    from jmamba.training.metrics import METRICS, read_metrics

    return {step: row["loss"] for step, row in read_metrics(folder / METRICS).items()}


def states_in(folder: Path) -> list[int]:
    """Return the steps after which a whole state was saved."""
    there = (folder / "state").glob("*") if (folder / "state").is_dir() else ()
    return sorted(int(path.name) for path in there if path.name.isdecimal())


def largest_difference(found: dict[int, float], expected: dict[int, float]) -> float:
    """Return the largest relative difference of losses of the steps that were made."""
    return max((abs(found[s] / expected[s] - 1) for s in found), default=0.0)


def soak(kills: int, seed: int, folder: Path, **options) -> dict[str, float]:
    """Kill runs so many times, and say what was found."""
    draw, begin = random.Random(seed), time.perf_counter()
    whole, out = folder / "whole", folder / "killed"
    whole.mkdir()
    run = start(whole, 2, **options)
    wait_for_step(run, whole)
    first = time.perf_counter()
    finish(run)
    seconds = time.perf_counter() - first
    expected = losses_in(whole)
    done = lost = ended = 0
    worst = 0.0
    while done < kills or out.exists():
        out.mkdir(exist_ok=True)
        before = states_in(out)
        run = start(out, draw.choice([1, 2, 2]), **options)
        if done < kills:
            wait_for_step(run, out)
            which = draw.choice([[0], [len(run) - 1], [*range(len(run))]])
            done += kill(run, draw.uniform(0, 0.5) * seconds, which)
            lost += max(states_in(out), default=0) < max(before, default=0)
        else:
            finish(run)
        found = losses_in(out)
        worst = max(worst, largest_difference(found, expected))
        if options["steps"] in states_in(out):
            lost += found.keys() != expected.keys()
            shutil.rmtree(out)
            ended += 1
        print(f"{done} kills, {ended} runs, {lost} lost, {worst:.1e}", flush=True)
    return {"kills": done, "runs": ended, "lost": lost, "largest_difference": worst,
            "seconds": time.perf_counter() - begin}  # fmt: skip


def main() -> None:
    """Kill and go on as often as is asked, and print what was lost."""
    parser = argparse.ArgumentParser(description="Kill runs of two processes.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--save-every", "--save_every", type=int, default=20)
    for name in ("--folder", "--mesh", "--processes", "--port", "--worker"):
        kind = {"--folder": Path, "--mesh": str}.get(name, int)
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        return join(options)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/programs"
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        found = soak(options.kills, options.seed, Path(folder), steps=options.steps,
                     save_every=options.save_every)  # fmt: skip
    print(json.dumps(found))
    if found["lost"] or found["largest_difference"] > TOLERANCE:
        sys.exit(1)


if __name__ == "__main__":
    main()
