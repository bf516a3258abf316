"""What a program takes of each device: memory, operations, exchanges, time."""

import math
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from jmamba.planning.advice import advise
from jmamba.planning.exchanges import Exchange, exchanges_in
from jmamba.planning.operations import count_work
from jmamba.planning.programs import Workload, make_call
from jmamba.planning.topologies import Chip, Topology

_KERNEL = re.compile(r"[\"/](selective_scan|ssd)(?:_\w+)?\.(\w+)/")


class Traffic(NamedTuple):
    """Exchanges of one kind along the same axes of the mesh.

    Attributes:
      kind: as XLA calls it.
      axes: of the mesh, joined by "+".
      times: how many there are in a run.
      num_bytes: that a device receives in all of them.
    """

    kind: str
    axes: str
    times: int
    num_bytes: float


class DevicePlan(NamedTuple):
    """What a run of a program takes, of each device unless it is said otherwise.

    Attributes:
      memory: what -> bytes; "temporary" is all that lives on the way.
      capacity: bytes of memory; None where it is not known.
      products: floating-point operations of products.
      traffic: what is exchanged; None where XLA cannot write the program as text.
      kernels: what computes the recurrences.
      bounds: what -> seconds that a run takes at least; none for unknown devices.
      advice: the first thing that does not fit, and what would help; "" if all fits.
      seconds: that compiling took.
    """

    memory: dict[str, int]
    capacity: int | None
    products: float
    traffic: tuple[Traffic, ...] | None
    kernels: tuple[str, ...]
    bounds: dict[str, float]
    advice: str
    seconds: float

    @property
    def total(self) -> int:
        """Bytes of memory in all."""
        return sum(self.memory.values())

    @property
    def least_seconds(self) -> float | None:
        """Time that a run takes at least, were all of it to overlap."""
        return max(self.bounds.values(), default=None)


def make_plan(kind: str, task: Workload, topology: Topology) -> DevicePlan:
    """Compile a program for a topology and say what it takes.

    Nothing is computed and no chip is needed. Bounds are of what cannot be less:

        products   operations / (peak of bfloat16)
        memory     (arguments, results, operands of recurrences) / bandwidth
        links      bytes received / (all links of a chip)

    Args:
      kind: of `programs.PROGRAMS`.
      task: what it is asked for; its sharding is of the topology's devices.
      topology: what to compile for.

    Raises:
      ValueError: the program is none of the model, or the mesh does not divide it.
    """
    run, arguments = make_call(kind, task)
    start = time.perf_counter()
    traced = run.trace(*arguments.values())
    lowered, work = traced.lower(), count_work(traced.jaxpr)
    memory: dict[str, int] = {k: _bytes_of(tree) for k, tree in arguments.items()}
    chip, capacity = topology.chip, topology.chip and topology.chip.memory
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        asked, capacity = read_shortage(error)
        memory["temporary"] = asked - sum(memory.values())
        text, moved = None, sum(memory.values())
    else:
        found = compiled.memory_analysis()
        memory["results"] = found.output_size_in_bytes - found.alias_size_in_bytes
        memory["temporary"] = found.temp_size_in_bytes
        moved = found.argument_size_in_bytes + found.output_size_in_bytes
        text = _text_of(compiled)
    traffic = None if text is None else _summarise(text, task.sharding.shape)
    seconds = time.perf_counter() - start
    names = _KERNEL.findall(text or lowered.as_text(debug_info=True))
    count = len(topology.devices)
    products, streamed = work.products / count, work.streamed / count
    bounds = {} if chip is None else _bounds(chip, products, moved + streamed, traffic)
    return DevicePlan(
        memory={name: size for name, size in memory.items() if size},
        capacity=capacity,
        products=products,
        traffic=traffic,
        kernels=tuple(sorted({".".join(pair) for pair in names})),
        bounds=bounds,
        advice=advise(memory, capacity, kind, task),
        seconds=seconds,
    )


def _bytes_of(tree: Any) -> int:
    """Return the bytes that each device has of arrays."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )


_SIZE = r"([\d.]+)([KMGT])"
_SHORTAGE = re.compile(
    rf"required for HLO temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)"
    rf"|Used {_SIZE} of {_SIZE} hbm"  # of older compilers
)


def read_shortage(error: Exception) -> tuple[int, int]:
    """Return the bytes a program needs in all, and those there are for it.

    What the compiler calls temporaries has the arguments in it.

    Raises:
      Exception: the error itself, if it is about something else.

    Examples:
      >>> needs = "required for HLO temporaries (2.5K) exceeds available HBM (1.00K)"
      >>> read_shortage(Exception(needs))
      (2560, 1024)
    """
    found = _SHORTAGE.search(str(error))
    if found is None:
        raise error
    numbers = [x for x in found.groups() if x is not None]
    sizes = zip(numbers[::2], numbers[1::2], strict=True)
    asked, there = (int(float(n) * 2 ** (10 * (1 + "KMGT".index(u)))) for n, u in sizes)
    return asked, there


def _text_of(compiled: Any) -> str | None:
    """Return a compiled program as text; None where XLA fails to write it.

    So it is of some programs for TPUs whose loops have exchanges under way.
    """
    try:
        return compiled.as_text()
    except jax.errors.JaxRuntimeError:
        return None


def _summarise(text: str, mesh: Mapping[str, int]) -> tuple[Traffic, ...]:
    """Return exchanges by kind and axes, those of most bytes first."""
    found: dict[tuple[str, str], Traffic] = {}
    for one in exchanges_in(text, mesh):
        axes = "+".join(name for name in mesh if name in one.axes)
        group = math.prod(mesh[name] for name in one.axes)
        old = found.get((one.kind, axes), Traffic(one.kind, axes, 0, 0))
        found[one.kind, axes] = old._replace(
            times=old.times + one.times,
            num_bytes=old.num_bytes + one.times * received(one, group),
        )
    return tuple(sorted(found.values(), key=lambda x: -x.num_bytes))


def received(exchange: Exchange, group: int) -> float:
    """Return the bytes that a device receives at least, one of a group of so many.

    Of an all-gather its result but its own part, of a sum over devices twice as much:
    parts are summed, and the sums gathered.
    """
    size, others = exchange.num_bytes, (group - 1) / group
    if exchange.kind == "all-reduce":
        return 2 * size * others
    if exchange.kind == "reduce-scatter":
        return float(size * (group - 1))
    return float(size) if exchange.kind == "collective-permute" else size * others


def _bounds(
    chip: Chip, products: float, moved: float | int, traffic: tuple[Traffic, ...] | None
) -> dict[str, float]:
    bounds = {
        "products": products / chip.flops,
        "memory": moved / chip.bandwidth,
    }
    if traffic is None:
        return bounds
    received_bytes = sum(x.num_bytes for x in traffic)
    return bounds | {"links": received_bytes / (chip.link * chip.links)}
