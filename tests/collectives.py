"""What devices exchange in a compiled program, and whether in a loop."""

import re
from typing import NamedTuple

import jax

KINDS = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
START = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{\s*$")
CALL = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
EXCHANGE = re.compile(rf"= (.*?) ({KINDS})(?:-start)?\(")


class Exchange(NamedTuple):
    """One collective operation.

    Attributes:
      kind: one of `KINDS`.
      is_in_loop: whether it stands in the body of a while loop.
      shapes: of its results, on one device.
    """

    kind: str
    is_in_loop: bool
    shapes: tuple[tuple[int, ...], ...]

    @property
    def numbers(self) -> int:
        """Numbers in the results."""
        total = 0
        for shape in self.shapes:
            count = 1
            for size in shape:
                count *= size
            total += count
        return total


def exchanges(function, *args) -> list[Exchange]:
    """Return what the devices exchange in the compiled program of a function."""
    return read_exchanges(jax.jit(function).lower(*args).compile().as_text() or "")


def read_exchanges(text: str) -> list[Exchange]:
    """Return what the devices exchange in the text of a compiled program."""
    bodies, name = {}, ""
    for line in text.splitlines():
        start = None if line.startswith(" ") else START.match(line)
        if start:
            name = start[1]
            bodies[name] = []
        elif name:
            bodies[name].append(line)
    inside, waiting = set(), re.findall(r"body=%?([\w.\-]+)", text)
    while waiting:
        name = waiting.pop()
        if name not in inside:
            inside.add(name)
            waiting += CALL.findall("\n".join(bodies.get(name, ())))
    return [
        Exchange(found[2], name in inside, _shapes(found[1]))
        for name, lines in bodies.items()
        for line in lines
        if (found := EXCHANGE.search(line))
    ]


def _shapes(text: str) -> tuple[tuple[int, ...], ...]:
    found = re.findall(r"[a-z]\w*\[([\d,]*)\]", text)
    return tuple(tuple(int(n) for n in sizes.split(",") if n) for sizes in found)
