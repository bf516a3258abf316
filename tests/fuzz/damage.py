"""Damage files of all layouts at random; reading them works, or is one error.

    python tests/fuzz/damage.py --count 20000 --seed 1

Prints what else was raised, what took longer than 5 seconds or more memory than the
bound, and how long and how much the worst ones took; the exit code is 1 if there was
anything.
"""

import argparse
import faulthandler
import logging
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from layouts import LAYOUTS
from memory import forget_peak, held_bytes, peak_bytes, whole_peak_bytes
from mutations import mutate

from jmamba.files.errors import FileError

SECONDS = 5
"""After which reading counts as a hang."""

MEMORY = 2**28
"""Bytes that reading one folder may add: its models are of kilobytes, the rest is what
JSON of up to 64 MiB, compiled programs and the libraries' own pools take."""


class Hang(KeyboardInterrupt):
    """Reading took too long; nothing that catches an `Exception` stops this."""


class Outcome(NamedTuple):
    """What came of one damaged folder.

    Attributes:
      layout: which it was.
      what: was done to it.
      kind: "read", "refused", "hang", or the name of another exception.
      details: a traceback of another exception.
      seconds: that reading took.
      memory: bytes that reading added at most to what the process held.
    """

    layout: str
    what: str
    kind: str
    details: str = ""
    seconds: float = 0.0
    memory: int = 0

    @property
    def is_bad(self) -> bool:
        """Whether something else happened than reading or the one error, in bounds."""
        is_slow, is_large = self.seconds > SECONDS, self.memory > MEMORY
        return self.kind not in ("read", "refused") or is_slow or is_large


def read(load: Callable[[Path], object], folder: Path) -> tuple[str, str]:
    """Return what came of reading a folder, and a traceback if it is bad."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    faulthandler.dump_traceback_later(10 * SECONDS, exit=True)  # stuck outside Python
    try:
        load(folder)
        return "read", ""
    except FileError:
        return "refused", ""
    except Hang:
        return "hang", traceback.format_exc(limit=-6)
    except BaseException as error:
        return type(error).__name__, traceback.format_exc(limit=-6)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()


def run(
    count: int, seed: int, layouts: list[str], show: Callable[[Outcome], None]
) -> list[Outcome]:
    """Damage and read so many folders, the layouts in turn."""
    outcomes = []
    with tempfile.TemporaryDirectory() as parent:
        whole = {name: Path(parent, "whole", name) for name in layouts}
        for name, folder in whole.items():
            folder.parent.mkdir(exist_ok=True)
            LAYOUTS[name][0](folder)
            LAYOUTS[name][1](folder)  # compiles, and imports what it needs
        for number in range(count):
            name = layouts[number % len(layouts)]
            draw = random.Random(f"{seed}-{number}")
            folder = Path(parent, "damaged")
            shutil.copytree(whole[name], folder)
            what = "; ".join(mutate_if_any(folder, draw, 1 + (draw.random() < 0.2)))
            forget_peak()
            start, held = time.monotonic(), held_bytes()
            kind, details = read(LAYOUTS[name][1], folder)
            seconds, memory = time.monotonic() - start, peak_bytes() - held
            outcome = Outcome(name, what, kind, details, seconds, memory)
            outcomes.append(outcome)
            show(outcome)
            shutil.rmtree(folder)
    return outcomes


def mutate_if_any(folder: Path, draw: random.Random, times: int) -> list[str]:
    """Damage a folder a few times, as long as it holds anything that is whole."""
    done = []
    for _ in range(times):
        try:
            done.append(mutate(folder, draw))
        except Exception as error:  # what is damaged once may not be read here
            done.append(f"already damaged ({type(error).__name__})")
    return done


def stop(*_: object) -> None:
    raise Hang


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS), choices=LAYOUTS)
    asked = parser.parse_args()
    signal.signal(signal.SIGALRM, stop)
    logging.disable()
    warnings.simplefilter("ignore")
    start, done = time.monotonic(), Counter()

    def show(outcome: Outcome) -> None:
        done[outcome.kind] += 1
        if outcome.is_bad:
            print(outcome.kind, say(outcome), outcome.details, sep="\n", flush=True)
        if done.total() % 500 == 0:
            print(done.total(), dict(done), f"peak {mebibytes(whole_peak_bytes())}")
            sys.stdout.flush()

    outcomes = run(asked.count, asked.seed, asked.layouts, show)
    print(
        f"{len(outcomes)} damaged folders of {len(asked.layouts)} layouts in "
        f"{time.monotonic() - start:.0f} s: {dict(done)}, {done['hang']} hangs, "
        f"{sum(one.is_bad for one in outcomes)} bad; peak of the process "
        f"{mebibytes(whole_peak_bytes())}"
    )
    for what in ("seconds", "memory"):
        worst = sorted(outcomes, key=lambda one: getattr(one, what))[-3:]
        print(f"most {what}:", *map(say, reversed(worst)), sep="\n  ")
    return int(any(outcome.is_bad for outcome in outcomes))


def say(outcome: Outcome) -> str:
    took = f"{outcome.seconds:.2f} s, {mebibytes(outcome.memory)}"
    return f"{outcome.layout} ({took}): {outcome.what}"


def mebibytes(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"


if __name__ == "__main__":
    sys.exit(main())
