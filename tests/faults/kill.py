"""Kills writers at random moments and looks what is left.

python tests/faults/kill.py --count 40 [--seed 0]

Each kind of writer runs once to its end, then again and again: it is killed by SIGKILL
after a random part of its time and run once more. Nothing may be lost, what the second
run leaves must equal what one run leaves, and no hidden folder may stay.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SAVE = """
import sys, pathlib, jmamba
from flax import nnx
from jmamba.models.mamba.model import MambaLM
config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
model = MambaLM(config, rngs=nnx.Rngs(0))
for _ in range(20):
    model.save_pretrained(sys.argv[1], overwrite=True, tokenizer="bytes")
"""
EVALUATE = """
import sys, time, pathlib
from jmamba.evaluation import evaluate
pathlib.Path(sys.argv[1]).mkdir(exist_ok=True)
def measure(method, numbers):
    time.sleep(0.01)
    return {"area": [len(method) / 3 + n for n in numbers]}
evaluate(measure, ["a", "bb"], [str(i) for i in range(100)], settings={"x": 1},
         path=sys.argv[1] + "/records.jsonl", batch=1)
"""
TINY = ("--d-model 16 --num-layers 1 --d-state 4 --steps 30 --batch 2 --length 16 "
        "--warmup 2 --save-every 5 --dtype float32").split()  # fmt: skip


def commands(work: Path) -> dict[str, list[str]]:
    """Return kind -> what to run, of which the last part is where it writes."""
    text = work / "text"
    text.write_bytes(b"the cat sat on the mat. " * 400)
    python, jmamba = [sys.executable, "-c"], [sys.executable, "-m", "jmamba"]
    return {
        "save": [*python, SAVE],
        "evaluate": [*python, EVALUATE],
        "train": [*jmamba, "train", str(text), *TINY, "--out"],
        "convert": [*jmamba, "convert", str(work / "source"), "--overwrite"],
        "reproduce": [*jmamba, "reproduce", "count-in-row", "--size", "quick", "--set",
                      "steps=20", "--set", "strings=8", "--set", "tested=[32]",
                      "--out"],
    }  # fmt: skip


def contents(folder: Path) -> dict[str, str]:
    """Return file -> hash of what a run leaves, but for states, sums and times.

    Orbax names its files at random, so that lists of their checksums differ too.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        is_state = not {"state", "parameters", "SHA256SUMS"}.isdisjoint(path.parts)
        if path.is_file() and not is_state and path.suffix not in (".md", ".png"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def leftovers(folder: Path) -> list[str]:
    return [
        str(path)
        for path in (*folder.parent.glob(".*.partial"), *folder.rglob("*"))
        if path.name.endswith(".partial") or "orbax-checkpoint-tmp" in path.name
    ]


def run_and_kill(command: list[str], delay: float) -> bool:
    """Run a command and kill it after a while; say whether it was still running."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(delay)
        return False
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True


def soak(kind: str, command: list[str], work: Path, count: int, draw) -> dict:
    """Kill one kind of writer `count` times; return what was found."""
    whole, out = work / f"{kind}-whole" / "out", work / kind / "out"
    for folder in (whole, out):
        folder.parent.mkdir()
    start = time.perf_counter()
    subprocess.run([*command, str(whole)], check=True, capture_output=True)
    seconds, expected = time.perf_counter() - start, contents(whole)
    result = {"kind": kind, "kills": 0, "lost": 0, "different": 0, "stale": 0}
    for _ in range(count):
        if kind not in ("save", "convert"):
            shutil.rmtree(out, ignore_errors=True)
        was_there = out.exists()
        delay = seconds * draw.uniform(0.3, 1)
        result["kills"] += run_and_kill([*command, str(out)], delay)
        held = [*out.parent.glob(".out.*.partial/old")]
        result["lost"] += was_there and not out.exists() and not held
        again = subprocess.run([*command, str(out)], capture_output=True, text=True)
        is_done = again.returncode == 0 or "to its end" in again.stderr
        result["different"] += not is_done or contents(out) != expected
        result["stale"] += len(leftovers(out))
    return result


def main() -> None:
    """Kill all kinds of writers in turn and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    work = Path(tempfile.mkdtemp(prefix="jmamba-kill-"))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    kinds = commands(work)
    subprocess.run(
        [sys.executable, "-c", SAVE.replace("20", "1"), str(work / "source")],
        check=True,
    )
    chosen = options.kinds or list(kinds)
    for kind in chosen:
        count = -(-options.count // len(chosen))
        print(json.dumps(soak(kind, kinds[kind], work, count, draw)), flush=True)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
