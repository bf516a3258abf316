"""The real TPU compiler on a machine without one, and the schedules it writes.

libtpu (the `tpu` extra) compiles for any generation once it is told not to look for a
chip. With `dump_to` set before it starts, it writes every kernel's final instruction
bundles, one a cycle when nothing stalls, which is what `read_schedule` counts.
"""

import os
import re
import shutil
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from jmamba.planning.topologies import start_without_chip
from jmamba_kernels import CHUNK
from jmamba_kernels.selective_scan.contract import ScanInputs, some_inputs

GENERATIONS = {
    "v4": "v4:2x2x1",
    "v5e": "v5e:2x2",
    "v5p": "v5p:2x2x1",
    "v6e": "v6e:2x2",
    "tpu7x": "tpu7x:2x2x1",
}
"""Generation -> topology."""

TOKEN_LOOP = 8
"""Tokens in one pass of a kernel's innermost loop."""


def start_compiler(dump_to: Path | None = None) -> None:
    """Set what libtpu reads when it is loaded; call before the first `sharding`."""
    start_without_chip()
    if dump_to is not None:
        os.environ["LIBTPU_INIT_ARGS"] = (
            f"--xla_jf_dump_to={dump_to} --xla_jf_dump_llo_text=true"
        )


def topology(generation: str) -> topologies.TopologyDescription:
    """Return the smallest whole arrangement of chips of a generation."""
    return topologies.get_topology_desc(
        platform="tpu", topology_name=GENERATIONS[generation]
    )


def sharding(generation: str) -> SingleDeviceSharding:
    """Return a sharding on one chip: what is lowered for it is compiled for it."""
    return SingleDeviceSharding(topology(generation).devices[0])


def operands(
    place, *, batch=1, length=2048, channels, states, dtype=jnp.float32, fused=True
) -> ScanInputs:
    """Return shapes of the scan's operands on a chip; with D, z and bias if `fused`."""

    def shape(*sizes, dtype=dtype):
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=place)

    over_time = shape(batch, length, channels)
    gates = shape(batch, length, 1, states)
    parameter = shape(channels, dtype=jnp.float32)
    parts = dict(u=over_time, delta=over_time, B=gates, C=gates)
    parts["A"] = shape(channels, states, dtype=jnp.float32)
    if fused:
        parts |= dict(D=parameter, z=over_time, delta_bias=parameter)
    return some_inputs(**parts)


def programs(maps, inputs: ScanInputs, *, directions=1) -> dict:
    """Return name -> (function, shapes) for the three maps of an implementation."""
    (batch, length, channels), states = inputs.u.shape, inputs.A.shape[1]
    place, fused = inputs.u.sharding, inputs.z is not None

    def shape(*sizes, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=place)

    saved = shape(batch, -(-length // CHUNK), states, channels)
    d_y = shape(directions, *inputs.u.shape, dtype=inputs.u.dtype)
    d_state = shape(directions, batch, channels, states)
    tangents = jax.tree.map(
        lambda x: shape(directions, *x.shape, dtype=x.dtype), inputs
    )
    wanted = tuple(k for k, x in inputs._asdict().items() if x is not None)
    options = {"delta_softplus": fused}
    return {
        "scan": (partial(maps.scan, save_states=True, **options), (inputs,)),
        "tangent": (partial(maps.tangent, **options), (inputs, tangents)),
        "cotangent": (
            partial(maps.cotangent, wanted=wanted, **options),
            (inputs, saved, d_y, d_state),
        ),
    }


class Schedule(NamedTuple):
    """What the compiler made of a kernel.

    Attributes:
      bundles: instruction bundles in the innermost loops, for 8 tokens of a tile.
      vmem_bytes: vector memory the kernel holds: windows and scratch.
    """

    bundles: int
    vmem_bytes: int

    def per_step(self, rows: int) -> float:
        """Return bundles per token and 1,024 channels, of tiles of `rows` x 128."""
        return self.bundles / TOKEN_LOOP / (rows / 8)


def read_schedule(folder: Path, name: str) -> Schedule:
    """Read the dump of the kernel whose name holds `name`, and empty the folder."""
    files = sorted(folder.glob(f"*{name}*final_bundles.txt"))
    (final,) = (path for path in files if "schedule-analysis" not in path.name)
    (original,) = folder.glob(f"*{name}*-02-original.txt")
    vmem = re.findall(r"space=vmem, size = (0x[0-9a-f]+)", original.read_text())
    depths = [
        len(marker)
        for marker in re.findall(
            r"^ *0x[0-9a-f]+ +(?:[A-Z]{2})? *: (>*)", final.read_text(), re.M
        )
    ]
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    bundles = depths.count(max(depths))
    return Schedule(bundles, sum(int(size, 16) for size in vmem))
