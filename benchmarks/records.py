"""What a benchmark leaves behind: its numbers, and where they were measured."""

import json
import platform
from pathlib import Path
from typing import Any

import jax
from peers import versions
from rich.console import Console


def describe_machine(*packages: str) -> dict[str, Any]:
    """Return the machine and the versions of what ran on it.

    Args:
      *packages: further ones beside jmamba and jax.
    """
    return {
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": _cores(),
        "device": str(jax.devices()[0]),
        "versions": versions("jmamba", "jax", "jaxlib", "flax", *packages),
    }


def write_record(file: str | None, results: Any, *packages: str) -> None:
    """Print where numbers were measured, and write both to a file.

    Args:
      file: JSON to write; None for none.
      results: the numbers.
      *packages: whose versions matter, beside jmamba and jax.
    """
    machine = describe_machine(*packages)
    Console(width=120).print(machine)
    if file:
        content = {"machine": machine, "results": results}
        Path(file).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _processor() -> str:
    """Return the processor's name."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or platform.machine()


def _cores() -> int:
    """Return the cores that this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
