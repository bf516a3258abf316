"""What commands and imports take from nothing: processes of their own, timed."""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = "Alexander the Great was a king of Macedon. After the death of Alexander "
IMPORTS = {
    "jax and nnx": "import jax, jax.numpy; from flax import nnx",
    "jmamba": "import jmamba",
}


def run_process(arguments, **environment):
    """Run Python in a process of its own; return its wall and its CPU seconds.

    Raises:
      RuntimeError: it failed.
    """
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    inherited = os.environ.get("PYTHONPATH")
    paths = f"{paths}{os.pathsep}{inherited}" if inherited else paths
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{arguments} failed: {done.stderr[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu


def time_imports(runs):
    """Return the CPU seconds of imports, in turn: median of each."""
    seconds = {name: [] for name in IMPORTS}
    for _ in range(runs + 1):  # the first fills the disk's cache
        for name, code in IMPORTS.items():
            seconds[name].append(run_process(["-c", code])[1])
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def time_commands(lengths):
    """Return wall and CPU seconds of `jmamba explain` and `dynamics`, first and again.

    The first run finds no compiled programs, the second those of the first.

    Args:
      lengths: characters of the texts.
    """
    found = []
    for command in ("explain", "dynamics"):
        for length in lengths:
            text = (TEXT * (length // len(TEXT) + 1))[:length]
            with tempfile.TemporaryDirectory() as folder:
                arguments = ["-m", "jmamba", command, text, "--out", f"{folder}/out"]
                where = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/programs"}
                for turn in ("first", "again"):
                    more = ["--overwrite"] if turn == "again" else []
                    wall, cpu = run_process([*arguments, *more], **where)
                    found.append(
                        {
                            "what": f"jmamba {command}, {length} characters, {turn}",
                            "unit": "s",
                            "jmamba": wall,
                            "CPU seconds": cpu,
                        }
                    )
    return found
