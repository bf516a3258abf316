"""A plan as text and as JSON."""

import json
from typing import Any

from jmamba.planning.plan import DevicePlan
from jmamba.planning.programs import Workload
from jmamba.planning.topologies import GIB, Topology


def plan_data(
    kind: str, name: str, task: Workload, topology: Topology, plan: DevicePlan
) -> dict:
    """Return what was asked and what came out, as JSON has it."""
    return {
        "program": kind,
        "model": name,
        "topology": topology.name,
        "devices": len(topology.devices),
        "mesh": task.sharding.shape,
        "batch": task.batch,
        "length": task.length,
        "dtype": task.dtype,
        "remat": bool(task.remat),
        **plan._asdict(),
        "traffic": None
        if plan.traffic is None
        else [one._asdict() for one in plan.traffic],
        "total": plan.total,
        "least_seconds": plan.least_seconds,
    }


def plan_text(data: dict[str, Any]) -> str:
    """Return a plan as lines of text.

    Args:
      data: of `plan_data`.
    """
    mesh = ", ".join(f"{k} {n}" for k, n in data["mesh"].items() if n > 1) or "whole"
    lines = [
        f"{data['program']} of {data['model']} on {data['topology']} "
        f"({data['devices']} devices: {mesh})",
        f"{data['batch']:,} rows of {data['length']:,} tokens, {data['dtype']}",
        "",
        "Memory of each device, GiB",
        *(f"  {name:<12} {size / GIB:9.3f}" for name, size in data["memory"].items()),
        f"  {'in all':<12} {data['total'] / GIB:9.3f}" + _of(data["capacity"]),
        "",
        f"Products, each device    {data['products'] / 1e12:,.3f} TFLOP",
        f"Recurrences              {', '.join(data['kernels']) or 'plain XLA'}",
        "",
        "Exchanges of each device",
        *_exchanges(data["traffic"]),
    ]
    if data["bounds"]:
        lines += ["", "A run takes at least, ms"]
        lines += [f"  {k:<12} {1e3 * t:9.2f}" for k, t in data["bounds"].items()]
    fits = data["advice"] or ("Fits." if data["capacity"] else "")
    return "\n".join([*lines, *(["", fits[0].upper() + fits[1:]] if fits else [])])


def _exchanges(traffic: list[dict[str, Any]] | None) -> list[str]:
    if traffic is None:
        return ["  not known: there is no text of the compiled program"]
    return [
        f"  {one['kind']:<18} {one['axes']:<16} {one['times']:>7,} times "
        f"{one['num_bytes'] / 1e6:12,.1f} MB"
        for one in traffic
    ] or ["  none"]


def _of(capacity: int | None) -> str:
    return "" if capacity is None else f" of {round(capacity / GIB, 2):g}"


def plan_json(data: dict[str, Any]) -> str:
    """Return a plan as JSON."""
    return json.dumps(data, indent=2) + "\n"
