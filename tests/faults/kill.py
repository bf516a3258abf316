"""Kills writers at random moments and looks what is left.

python tests/faults/kill.py --count 40 [--seed 0] [--kinds save train]

Each kind of writer runs to its end, then again and again: it is killed by SIGKILL after
a random part of its time and run once more. Nothing may be lost, what the second run
leaves must equal what one run leaves, and no hidden folder may stay. The exit code is 1
if anything else was found.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

SAVE = """
import sys, pathlib, jmamba
from flax import nnx
from jmamba.models.mamba.model import MambaLM
config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
model = MambaLM(config, rngs=nnx.Rngs(0))
for _ in range(TIMES):
    model.save_pretrained(sys.argv[1], overwrite=True, tokenizer="bytes")
    print("saved", flush=True)
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
STAMPS = ("_CHECKPOINT_METADATA", "commit_success.txt")
"""Where Orbax says when a state was written."""


class Found(NamedTuple):
    """What came of one kind of writer.

    Attributes:
      kind: of writer.
      kills: runs that were killed before their end.
      lost: of them, those that left less than there was before.
      different: of the runs after them, those that left something else than one run.
      stale: hidden folders and parts of files that stayed.
    """

    kind: str
    kills: int
    lost: int
    different: int
    stale: int

    @property
    def is_bad(self) -> bool:
        """Whether anything was found."""
        return self.lost + self.different + self.stale > 0


def commands(work: Path) -> dict[str, list[str]]:
    """Return kind -> what to run, of which the last part is where it writes."""
    text = work / "text"
    text.write_bytes(b"the cat sat on the mat. " * 400)
    documents = work / "documents.jsonl"
    lines = [{"text": "the cat sat on the mat. " * (1 + i % 5)} for i in range(40)]
    documents.write_text("".join(json.dumps(line) + "\n" for line in lines))
    python, jmamba = [sys.executable, "-c"], [sys.executable, "-m", "jmamba"]
    return {
        "save": [*python, SAVE.replace("TIMES", "20")],
        "evaluate": [*python, EVALUATE],
        "train": [*jmamba, "train", str(text), *TINY, "--out"],
        "analyse": [*jmamba, "analyse", str(documents), "--what", "rows,lens",
                    "--model", str(work / "source"), "--batch", "2", "--out"],
        "convert": [*jmamba, "convert", str(work / "source"), "--overwrite"],
        "reproduce": [*jmamba, "reproduce", "count-in-row", "--size", "quick", "--set",
                      "steps=20", "--set", "strings=8", "--set", "tested=[32]",
                      "--out"],
    }  # fmt: skip


def contents(folder: Path) -> dict[str, str]:
    """Return what -> hash of all that a run leaves.

    Arrays that Orbax wrote count by their values: their files have random names, so
    that lists of their checksums differ too. The folder's own name and speeds do not.
    """
    databases = {path.parent for path in folder.rglob("manifest.ocdbt")}
    databases = {one for one in databases if not databases & set(one.parents)}
    found = {}
    for path in sorted(folder.rglob("*")):
        is_listed = path.name == "SHA256SUMS" and databases
        is_inside = path in databases or databases & set(path.parents)
        if (
            path.is_file()
            and not is_listed
            and not path.name.endswith(".__lock")  # of TensorStore, and empty
            and not is_inside
            and path.name not in STAMPS
        ):
            content = path.read_bytes().replace(bytes(folder), b"")
            content = re.sub(rb'"tokens_per_second": [^,}]+', b"", content)
            found[str(path.relative_to(folder))] = hash_bytes(content)
    for database in databases:
        for name, array in read_values(database).items():
            text = f"{array.dtype} {array.shape} ".encode() + array.tobytes()
            found[f"{database.relative_to(folder)}: {name}"] = hash_bytes(text)
    return found


def read_values(database: Path) -> dict:
    """Return the arrays that Orbax wrote into a folder."""
    from jmamba.files.orbax_files import open_arrays

    stores = open_arrays(database)
    return {name: store.read().result() for name, store in stores.items()}


def hash_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def leftovers(folder: Path) -> list[str]:
    """Return what a writer should have cleared away."""
    return [
        str(path)
        for path in (*folder.parent.glob(".*.partial"), *folder.rglob("*"))
        if path.name.endswith(".partial") or "orbax-checkpoint-tmp" in path.name
    ]


def records(folder: Path) -> bytes:
    """Return the whole lines of records, which no later run may change."""
    file = folder / "records.jsonl"
    content = file.read_bytes() if file.is_file() else b""
    return content[: content.rfind(b"\n") + 1]


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


def soak(kind: str, command: list[str], work: Path, count: int, draw) -> Found:
    """Kill one kind of writer `count` times; return what was found."""
    places = [work / f"{kind}-{part}" / "out" for part in ("first", "whole", "killed")]
    for place in places:
        place.parent.mkdir()
    first, whole, out = places
    subprocess.run([*command, str(first)], check=True, capture_output=True)  # compiles
    start = time.perf_counter()
    subprocess.run([*command, str(whole)], check=True, capture_output=True)
    seconds, expected = time.perf_counter() - start, contents(whole)
    kills = lost = stale = 0
    different = int(contents(first) != expected)
    for _ in range(3 * count):
        if kills == count:
            break
        if kind not in ("save", "convert"):
            shutil.rmtree(out, ignore_errors=True)
        was_there = out.exists()
        if not run_and_kill([*command, str(out)], seconds * draw.uniform(0.3, 1)):
            continue  # it had ended
        kills += 1
        held, kept = [*out.parent.glob(".out.*.partial/old")], records(out)
        again = subprocess.run([*command, str(out)], capture_output=True, text=True)
        is_done = again.returncode == 0 or "to its end" in again.stderr
        is_lost = was_there and not out.exists() and not held
        lost += is_lost or not records(out).startswith(kept)
        found = contents(out)
        if not is_done or found != expected:
            different += 1
            names = {*found, *expected}
            print([n for n in names if found.get(n) != expected.get(n)], again.stderr)
        stale += len(leftovers(out))
    return Found(kind, kills, lost, different, stale)


def main() -> int:
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
    save_once = SAVE.replace("TIMES", "1")
    subprocess.run([sys.executable, "-c", save_once, str(work / "source")], check=True)
    chosen, all_found = options.kinds or list(kinds), []
    for kind in chosen:
        count = -(-options.count // len(chosen))
        all_found.append(soak(kind, kinds[kind], work, count, draw))
        print(json.dumps(all_found[-1]._asdict()), flush=True)
    shutil.rmtree(work)
    return int(any(found.is_bad for found in all_found))


if __name__ == "__main__":
    sys.exit(main())
