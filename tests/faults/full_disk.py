"""Lets the disk be full at every write and every new file, and looks what is left.

python tests/faults/full_disk.py [--kinds save orbax]

Mounts a small file system in memory, which takes root. Each kind of writer first writes
what is to be kept; then, over and over, the disk is filled so that one page more than
the last time is left, or one file more, until the writer succeeds. Before that each run
must end with one message, leave all that was there as it was, and nothing else.
"""

import argparse
import gc
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
from fuzz.layouts import STATE, language_model, open_bench, open_states
from kill import contents, leftovers

PAGE = os.sysconf("SC_PAGE_SIZE")
PAGES, FILES = 2000, 4000
"""Size of the file system."""


def writers(source: Path) -> dict[str, Callable[[Path], object]]:
    """Return kind -> what writes into a folder, the first time and again."""
    from jmamba.checkpoints import convert, save_orbax
    from jmamba.evaluation.records import RecordFile

    model = language_model()
    model.save_pretrained(source, tokenizer="bytes")

    def save_state(folder: Path) -> None:
        states = open_states(folder)
        try:
            states.save(STATE, 2 * len(list(folder.iterdir())), last=True)
        finally:
            states.close()

    def append(folder: Path) -> None:
        records = RecordFile(folder / "records.jsonl", {"x": 1})
        names = [f"{len(records.found)}-{number}" for number in range(400)]
        values = {"area": [1 / 3] * len(names)}
        records.append(f"method {len(records.found)}", names, values)

    def measure(folder: Path) -> None:
        bench, parts = open_bench(folder), folder / "parts"
        number = len(list(parts.iterdir())) if parts.is_dir() else 0
        bench.once(f"part-{number}", lambda: [1 / 3] * 2000)

    return {
        "save": lambda folder: model.save_pretrained(
            folder, overwrite=True, tokenizer="bytes", shard_bytes=2000
        ),
        "orbax": lambda folder: save_orbax(model, folder, overwrite=True),
        "convert hf": lambda folder: convert(
            source, folder, format="hf", overwrite=True
        ),
        "convert orbax": lambda folder: convert(source, folder, overwrite=True),
        "states": save_state,
        "records": append,
        "recipe": measure,
    }


@contextmanager
def small_disk() -> Iterator[Path]:
    """Mount a file system of some pages and files."""
    place = Path(tempfile.mkdtemp(prefix="jmamba-disk-"))
    options = f"size={PAGES * PAGE},nr_inodes={FILES}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "jmamba", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        place.rmdir()


@contextmanager
def filled(disk: Path, what: str, left: int) -> Iterator[None]:
    """Fill the disk up to so many pages or files."""
    ballast = disk / "ballast"
    ballast.mkdir()
    state = os.statvfs(disk)
    if what == "pages":
        with (ballast / "0").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, PAGE * max(1, state.f_bavail - left))
    else:
        for number in range(state.f_favail - left):
            (ballast / str(number)).touch()
    try:
        yield
    finally:
        for file in ballast.iterdir():
            file.unlink()
        ballast.rmdir()


@contextmanager
def heard(log: Path) -> Iterator[None]:
    """Let what is written to standard error, by whomever, go to a file."""
    sys.stderr.flush()
    before = os.dup(2)
    with log.open("wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
        gc.collect()
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)


def fill_up(kind: str, write: Callable[[Path], object], disk: Path, what: str) -> int:
    """Run a writer with ever more room; return how many runs had too little."""
    out, log = disk / kind.replace(" ", "-") / "out", Path(tempfile.mkdtemp(), "log")
    out.parent.mkdir()
    write(out)
    write(out)
    before, faults = contents(out), 0
    for left in range(10_000):
        error = None
        with filled(disk, what, left), heard(log):
            try:
                write(out)
            except Exception as raised:
                error = str(raised)
        noise = log.read_text(errors="replace")
        if error is None:
            break
        faults += 1
        place = f"{kind}, {left} {what} left"
        if "room left on the disk" not in error and "No space left" not in error:
            print(f"{place}: said {error[:500]}")
        if "\n" in error or "Traceback" in noise or "Exception ignored" in noise:
            print(f"{place}: more than one message: {error[:300]} {noise[:2000]}")
        if contents(out) != before:
            print(f"{place}: what was there has changed")
        if leftovers(out):
            print(f"{place}: left {leftovers(out)}")
    print(f"{kind}: {faults} runs with too few {what}", flush=True)
    return faults


def main() -> None:
    """Fill the disk under all kinds of writers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="*")
    options = parser.parse_args()
    logging.getLogger("jmamba").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    kinds = writers(Path(tempfile.mkdtemp(prefix="jmamba-source-"), "source"))
    for kind in options.kinds or kinds:
        for what in ("pages", "files"):
            with small_disk() as disk:
                fill_up(kind, kinds[kind], disk, what)


if __name__ == "__main__":
    main()
