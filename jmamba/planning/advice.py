"""What does not fit a device, and the change that would make it fit."""

import math
from collections.abc import Mapping

from jmamba.planning.programs import Workload
from jmamba.planning.topologies import GIB

LASTING = ("parameters", "optimizer", "cache")
"""What lives from run to run."""


def advise(
    memory: Mapping[str, int], capacity: int | None, kind: str, task: Workload
) -> str:
    """Return the first thing that does not fit and what would help; "" if all fits.

    Args:
      memory: what -> bytes on each device.
      capacity: of its memory; None where that is not known.
      kind: of the program.
      task: what it was asked for.
    """
    if capacity is None or sum(memory.values()) <= capacity:
        return ""
    sharding = task.sharding
    lasting = {name: memory[name] for name in LASTING if name in memory}
    needed, there = sum(lasting.values()), f"{capacity / GIB:.1f} GiB"
    if needed > capacity:
        names = " and ".join(lasting)
        by = 2 ** math.ceil(math.log2(needed / (0.7 * capacity)))
        return (
            f"{names} alone take {needed / GIB:.1f} of {there} on each device: spread "
            f"them over {by} times as many, by fsdp={sharding.fsdp * by} or a larger "
            "tensor."
        )
    over = sum(memory.values()) - capacity
    return (
        f"what lives on the way does not fit: {over / GIB:.1f} GiB more than {there} "
        f"on each device. {_lighten(kind, task, memory)}"
    )


def _lighten(kind: str, task: Workload, memory: Mapping[str, int]) -> str:
    """Return the change that frees most of what lives on the way."""
    sharding = task.sharding
    rows = task.batch // (sharding.data * sharding.fsdp)
    if kind == "train" and task.remat is False:
        return "Compute blocks again in the backward pass: --remat full."
    if rows > 1:
        return f"Each device has {rows} rows: halve the batch ({task.batch // 2})."
    if kind != "decode":
        return (
            f"Each device has one row of {task.length // sharding.sequence:,} tokens: "
            f"split them, sequence={2 * sharding.sequence}, or channels, "
            f"tensor={2 * sharding.tensor}."
        )
    return f"Split channels, tensor={2 * sharding.tensor}."
