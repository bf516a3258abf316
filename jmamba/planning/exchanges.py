"""What devices exchange in a compiled program: how often, how much, over which axes."""

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
)
"""What XLA calls the operations in which devices exchange arrays."""

_START = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{\s*$")
_CALL = re.compile(r"(?:calls|to_apply|body|condition|true_computation|"
                   r"false_computation)=%?([\w.\-]+)")  # fmt: skip
_EXCHANGE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(")
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
_BODY = re.compile(r"body=%?([\w.\-]+)")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_CONSTANT = re.compile(r" constant\((\d+)\)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_NAMED = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\]"
    r"(?:T\(([\d,]+)\))?\))? ?\{([^}]*)\}"
)


class Exchange(NamedTuple):
    """One collective operation of a program.

    Attributes:
      kind: one of `KINDS`.
      times: how often a run of the program does it, in loops of known length.
      is_in_loop: whether it stands in the body of a loop.
      shapes: of its results, on one device.
      num_bytes: of its results, on one device.
      axes: of the mesh, along which devices exchange.
    """

    kind: str
    times: int
    is_in_loop: bool
    shapes: tuple[tuple[int, ...], ...]
    num_bytes: int
    axes: frozenset[str]

    @property
    def numbers(self) -> int:
        """Numbers in the results, on one device."""
        return sum(map(math.prod, self.shapes))


def exchanges_in(
    text: str, mesh: Mapping[str, int] = MappingProxyType({})
) -> list[Exchange]:
    """Return what devices exchange in the text of a compiled program.

    Args:
      text: of `compiled.as_text()`.
      mesh: axis -> devices along it, in the order of the mesh; empty for no axes.

    Examples:
      >>> line = "  %a = f32[4,8]{1,0} all-gather(%x), replica_groups={{0,1},{2,3}}"
      >>> [(x.kind, x.num_bytes, *x.axes) for x in exchanges_in(
      ...     "ENTRY %main (x: f32[2,8]) -> f32[4,8] {\\n" + line, {"x": 2, "y": 2})]
      [('all-gather', 128, 'y')]
    """
    bodies = _computations(text)
    runs = _runs(text, bodies)
    return [
        _read(match, line, name, runs[name], mesh)
        for name, lines in bodies.items()
        for line in lines
        if (match := _EXCHANGE.search(line))
    ]


def _read(match, line: str, computation: str, run: "_Run", mesh) -> Exchange:
    kind = match[2]
    if kind == "all-reduce" and "all-reduce-scatter" in computation:
        kind = "reduce-scatter"  # TPUs do both in one fused operation
    shapes = _results(match[1], is_async="-start(" in line)
    return Exchange(
        kind,
        run.times,
        run.is_in_loop,
        tuple(shape for _, shape in shapes),
        sum(int(_width(kind) * math.prod(sizes)) for kind, sizes in shapes),
        axes_of(_groups(line), mesh),
    )


class _Run(NamedTuple):
    """How often a computation runs, and whether in a loop."""

    times: int = 1
    is_in_loop: bool = False


def _computations(text: str) -> dict[str, list[str]]:
    """Return computation -> its lines."""
    bodies: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        start = None if line.startswith(" ") else _START.match(line)
        if start:
            name = start[1]
            bodies[name] = []
        elif name:
            bodies[name].append(line)
    return bodies


def _runs(text: str, bodies: Mapping[str, list[str]]) -> dict[str, _Run]:
    """Return computation -> how it runs in one run of the program."""
    runs = dict.fromkeys(bodies, _Run())

    def visit(name: str, run: _Run) -> None:
        runs[name] = max(runs.get(name, _Run()), run)
        for line in bodies.get(name, ()):
            body = _BODY.search(line)
            for called in _CALL.findall(line):
                is_body = body is not None and called == body[1]
                inner = _Run(run.times * _trips(line, bodies), True)
                visit(called, inner if is_body else run)

    entry = re.search(r"^ENTRY %?([\w.\-]+)", text, re.M)
    if entry:
        visit(entry[1], _Run())
    return runs


def _trips(line: str, bodies: Mapping[str, list[str]]) -> int:
    """Return how often a loop runs: as XLA says, or as its condition compares."""
    known, condition = _TRIPS.search(line), _CONDITION.search(line)
    if known:
        return int(known[1])
    lines = "\n".join(bodies.get(condition[1], ())) if condition else ""
    bounds = [int(n) for n in _CONSTANT.findall(lines)]
    return max(bounds, default=1) if "direction=LT" in lines else 1


def _results(text: str, *, is_async: bool) -> list[tuple[str, tuple[int, ...]]]:
    """Return dtype and shape of the results; those that start carry operands too."""
    shapes = [
        (kind, tuple(int(n) for n in sizes.split(",") if n))
        for kind, sizes in _SHAPE.findall(text)
    ]
    if not is_async or len(shapes) < 2:
        return shapes
    arrays = [one for one in shapes if one[0] not in ("u32", "s32") or one[1]]
    return arrays[len(arrays) // 2 :]


def _width(kind: str) -> float:
    """Return bytes of a number: of bf16 2, of pred 1."""
    bits = re.search(r"\d+", kind)
    return int(bits[0]) / 8 if bits else 1


def _groups(line: str) -> list[list[int]]:
    """Return which devices exchange with each other; [] for all."""
    iota, named = _IOTA.search(line), _NAMED.search(line)
    if iota:
        rows, columns, sizes, order = iota.groups()
        return _places(sizes, order).reshape(int(rows), int(columns)).tolist()
    if named:
        return _named_groups(*named.groups())
    listed = _LISTED.search(line)
    groups = re.findall(r"\{([\d,]+)\}", listed[1]) if listed else []
    return [_numbers(group) for group in groups]


def _named_groups(mesh, sizes, order, chosen) -> list[list[int]]:
    """Return the groups along chosen axes of a mesh that XLA has named.

    An axis a of 8 may be chosen in part: a:(2)4 are 4 in steps of 1, of 2 such rows.
    """
    lengths = {k: int(n) for k, n in re.findall(r"'([^']+)'=(\d+)", mesh)}
    parts = {
        name: (int(before), int(size))
        for name, before, size in re.findall(r"'([^']+)':\((\d+)\)(\d+)", chosen)
    }
    whole = set(re.findall(r"'([^']+)'", chosen)) - set(parts)
    shape, along = [], []
    for name, length in lengths.items():
        before, size = parts.get(name, (1, length))
        along += [False, name in whole or name in parts, False]
        shape += [before, size, length // before // size]
    ids = np.arange(math.prod(shape)) if sizes is None else _places(sizes, order)
    kept = [i for i, is_along in enumerate(along) if is_along]
    others = [i for i, is_along in enumerate(along) if not is_along]
    width = math.prod(shape[i] for i in kept)
    ids = ids.reshape(shape).transpose([*others, *kept])
    return ids.reshape(-1, width).tolist()


def _places(sizes: str, order: str | None) -> np.ndarray:
    """Return the numbers of devices in the order of a transposed grid."""
    shape = _numbers(sizes)
    ids = np.arange(math.prod(shape)).reshape(shape)
    return ids.transpose(_numbers(order)).ravel() if order else ids.ravel()


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


def axes_of(groups: list[list[int]], mesh: Mapping[str, int]) -> frozenset[str]:
    """Return the axes of a mesh along which the members of groups differ.

    Args:
      groups: of places in the mesh; [] for one of all.
      mesh: axis -> devices along it.

    Examples:
      >>> sorted(axes_of([[0, 2], [1, 3]], {"x": 2, "y": 2}))
      ['x']
    """
    sizes = tuple(mesh.values())
    if not mesh or not groups:
        return frozenset(name for name, size in mesh.items() if size > 1)
    names: set[str] = set()
    for group in groups:
        places = np.array(np.unravel_index(group, sizes))
        differ = (places != places[:, :1]).any(axis=1)
        names |= {name for name, is_apart in zip(mesh, differ, strict=True) if is_apart}
    return frozenset(names)
