"""Compile the TPU kernels with the real compiler, no TPU needed, and read the schedule.

    pip install 'jmamba[tpu]'
    python benchmarks/tpu_compile.py                        # all, ten minutes
    python benchmarks/tpu_compile.py --generation v5e --shape mamba-370m
    python benchmarks/tpu_compile.py --bare                 # no softplus, D, z

A row is one kernel: seconds to compile, vector memory it holds, device memory the
program needs beside operands and results, and bundles of instructions per token and
1,024 channels in its loops over tokens: cycles, when nothing stalls.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # libtpu would look for a chip

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table
from shapes import SHAPES
from tpu_compiler import (
    GENERATIONS,
    operands,
    programs,
    read_schedule,
    sharding,
    start_compiler,
)

from jmamba_kernels.selective_scan.pallas_tpu import pallas_tpu
from jmamba_kernels.selective_scan.tpu.layout import choose_rows

MIB = 2**20
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def measure(generation, shape, dtype, *, fused, length, folder):
    """Yield a row for each map of the kernel at a shape."""
    channels, states = SHAPES[shape]
    inputs = operands(
        sharding(generation), length=length, channels=channels, states=states,
        dtype=DTYPES[dtype], fused=fused,
    )  # fmt: skip
    rows = choose_rows(channels, states)
    for name, (function, shapes) in programs(pallas_tpu(), inputs).items():
        lowered = jax.jit(function).lower(*shapes)
        start = time.perf_counter()
        compiled = lowered.compile()
        seconds = time.perf_counter() - start
        memory = compiled.memory_analysis()
        assert memory is not None
        schedule = read_schedule(folder, f"selective_scan_tpu_{name}")
        yield {
            "generation": generation,
            "shape": shape,
            "dtype": dtype,
            "map": name,
            "fused": fused,
            "rows": rows,
            "seconds": seconds,
            "vmem_mib": schedule.vmem_bytes / MIB,
            "temp_mib": memory.temp_size_in_bytes / MIB,
            "bundles": schedule.per_step(rows),
        }


def show(rows) -> Table:
    """Return the rows as a table."""
    table = Table(title="TPU kernels, compiled", box=None, padding=(0, 1))
    for column in ("TPU", "shape", "dtype", "kernel", "rows"):
        table.add_column(column, no_wrap=True)
    for column in ("s", "VMEM MiB", "temp MiB", "bundles"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["generation"], row["shape"], row["dtype"], row["map"],
            str(row["rows"]), f"{row['seconds']:.1f}", f"{row['vmem_mib']:.1f}",
            f"{row['temp_mib']:.1f}", f"{row['bundles']:.1f}",
        )  # fmt: skip
    return table


def parse_arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--generation", nargs="+", choices=GENERATIONS)
    parser.add_argument("--shape", nargs="+", choices=SHAPES)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--bare", action="store_true", help="no softplus, D, z, bias")
    parser.add_argument("--json", type=Path, help="write the rows here")
    return parser.parse_args()


def main():
    """Compile, print a row after each kernel, and the table."""
    arguments = parse_arguments()
    rows, console = [], Console()
    with tempfile.TemporaryDirectory() as folder:
        start_compiler(Path(folder))
        for generation in arguments.generation or GENERATIONS:
            for shape in arguments.shape or SHAPES:
                for dtype in arguments.dtype or DTYPES:
                    measured = measure(
                        generation, shape, dtype, fused=not arguments.bare,
                        length=arguments.length, folder=Path(folder),
                    )  # fmt: skip
                    for row in measured:
                        rows.append(row)
                        console.log(f"{generation} {shape} {dtype} {row['map']}")
    console.print(show(rows))
    if arguments.json is not None:
        found = {name: version(name) for name in ("jax", "jaxlib", "libtpu")}
        about = {"versions": found, "machine": platform.machine(), "rows": rows}
        arguments.json.write_text(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()
