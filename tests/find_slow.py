"""List the slow tests, which `-m "not slow"` skips, from what pytest says it took.

    python -m pytest -n 2 --dist loadfile --durations=0 -vv > durations.log
    python tests/find_slow.py durations.log > tests/slow.txt

All cases of a test count together. The quickest tests are kept until SECONDS are used
up, at least one of each file.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

SECONDS = 250
"""What the tests that are kept may take together, on one core."""

LINE = re.compile(r"([\d.]+)s (?:call|setup|teardown) +(\S+?)(?:\[.*)?$")


def read_durations(log: str) -> dict[str, float]:
    """Return the seconds of each test, all of its cases together."""
    seconds: dict[str, float] = defaultdict(float)
    for line in log.splitlines():
        if match := LINE.match(line):
            seconds[match[2]] += float(match[1])
    return dict(seconds)


def find_slow(seconds: dict[str, float], budget: float) -> list[str]:
    """Return the tests that are too slow to keep."""
    kept: set[str] = set()
    files: set[str] = set()
    order = sorted(seconds, key=lambda name: seconds[name])
    for name in order:  # at least one of each file
        file = name.split("::")[0]
        if file not in files:
            files.add(file)
            kept.add(name)
    left = budget - sum(seconds[name] for name in kept)
    for name in order:
        if name not in kept and seconds[name] <= left:
            kept.add(name)
            left -= seconds[name]
    return sorted(set(seconds) - kept)


if __name__ == "__main__":
    print(
        *find_slow(read_durations(Path(sys.argv[1]).read_text()), SECONDS),
        sep="\n",
    )
