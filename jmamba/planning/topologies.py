"""Devices that are not there: what they are called, and what they can do."""

import importlib.util
import os
import re
from typing import Any, NamedTuple

import jax

GIB = 2**30


class Chip(NamedTuple):
    """What the maker says of a device, for lower bounds of time.

    Attributes:
      flops: products of bfloat16 matrices, operations a second.
      memory: bytes of high-bandwidth memory.
      bandwidth: bytes a second between memory and device.
      link: bytes a second that one link to a neighbour carries in one direction.
      links: to neighbours in a large slice.

    References:
      Google Cloud's page of each TPU version, whose bandwidth between chips is that of
      all links in both directions. That of v4 names none; 5e10 for each link agrees
      with the 1.1e15 that it states for an all-reduce over 4,096 chips.
    """

    flops: float
    memory: int
    bandwidth: float
    link: float
    links: int


CHIPS = {
    "v4": Chip(2.75e14, 32 * GIB, 1.2e12, 5e10, 6),
    "v5e": Chip(1.97e14, 16 * GIB, 8.19e11, 5e10, 4),
    "v5p": Chip(4.59e14, 95 * GIB, 2.765e12, 1e11, 6),
    "v6e": Chip(9.18e14, 32 * GIB, 1.638e12, 1e11, 4),
}
"""Generation of TPUs of which each chip is one device -> its numbers."""


class Topology(NamedTuple):
    """Devices to compile for.

    Attributes:
      name: as it was asked for.
      devices: all of them, in JAX's order.
      chip: what one can do; None where that is not known, as of CPUs.
    """

    name: str
    devices: tuple[Any, ...]
    chip: Chip | None


def open_topology(name: str) -> Topology:
    """Return the devices of a topology, none of which has to be there.

    Args:
      name: a generation and its shape, such as v5e:16x16 or v5p:8x8x8, which libtpu
        compiles for; or cpu:8, virtual devices of this machine.

    Raises:
      ValueError: there is no such topology, libtpu is not installed, or JAX has begun
        with fewer virtual devices.

    Examples:
      >>> len(open_topology("cpu:1").devices)
      1
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    kind, shape = match.groups() if match else ("", "")
    if kind == "cpu" and shape.isdecimal() and int(shape) > 0:
        return Topology(name, _virtual_devices(int(shape)), None)
    if kind not in CHIPS:
        raise ValueError(
            f"{name!r} is no topology; write cpu:8, or a TPU and its shape, such as "
            f"v5e:16x16 or v5p:8x8x8. Known are {', '.join(CHIPS)}."
        )
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"{name}: programs for TPUs are compiled by libtpu, which is not installed:"
            ' type pip install "jmamba[tpu]", or give --topology cpu:8.'
        )
    start_without_chip()
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name)
    except Exception as error:  # of whatever kind the plugin raises
        raise ValueError(
            f"The TPU compiler knows no topology {name}: "
            f"{str(error).splitlines()[0][:200]}. Shapes have two axes for v5e and "
            "v6e (16x16), three for v4 and v5p (4x4x8)."
        ) from error
    return Topology(name, tuple(found.devices), CHIPS[kind])


def _virtual_devices(count: int) -> tuple[Any, ...]:
    """Return devices of the CPU, which JAX makes when it begins."""
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        pass  # it has begun, perhaps with as many
    devices = tuple(jax.devices("cpu"))
    if len(devices) < count:
        raise ValueError(
            f"cpu:{count}: JAX has begun with {len(devices)} devices. Begin with "
            f'jax.config.update("jax_num_cpu_devices", {count}).'
        )
    return devices[:count]


def start_without_chip() -> None:
    """Let libtpu compile without looking for a chip; call it before JAX begins."""
    os.environ.update(
        TPU_SKIP_MDS_QUERY="1",
        TPU_ACCELERATOR_TYPE="v5litepod-4",
        TPU_WORKER_HOSTNAMES="localhost",
        TPU_WORKER_ID="0",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",  # there is no chip to share
    )
