"""Compile every GPU kernel at the shapes of named models, and say what it uses.

    python benchmarks/gpu_compile.py                    # a few minutes
    python benchmarks/gpu_compile.py --gpu sm_80 --map scan --json x.json

No GPU is needed, but its compiler is (`gpu_compiler.why_no_gpu_compiler`). Seconds are
those of tracing, lowering and compiling the map alone.
"""

import argparse
import itertools
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from importlib import metadata
from typing import Any, NamedTuple

import jax
from gpu_compiler import (
    compile_for_gpu,
    count_atomics,
    dump_to,
    resources,
    why_no_gpu_compiler,
)
from rich.console import Console
from rich.table import Table
from shapes import SHAPES

from jmamba_kernels import CHUNK, IMPLEMENTATIONS, ScanInputs, load, num_chunks

SERVED = {"pallas_triton": ("sm_80", "sm_89"), "pallas_mosaic_gpu": ("sm_90",)}
"""The GPUs that each implementation is compiled for."""

KERNELS = {"pallas_triton": "triton", "pallas_mosaic_gpu": "mosaic_gpu"}
"""What kernels of an implementation are called: selective_scan_KERNEL_MAP."""

MAPS = ("scan", "cotangent", "tangent")
DTYPES = ("bfloat16", "float32")


class Case(NamedTuple):
    """One map of one implementation at one shape, for one GPU."""

    implementation: str
    gpu: str
    map: str
    dtype: str
    channels: int
    batch: int = 8
    length: int = 2048
    states: int = 16
    directions: int = 1

    @property
    def label(self) -> str:
        """A name for the program."""
        sizes = f"b{self.batch}_l{self.length}_d{self.channels}_n{self.states}"
        return f"{self.map}_{self.gpu}_{self.dtype}_{sizes}"

    @property
    def kernel(self) -> str:
        """The name of its kernel."""
        return f"selective_scan_{KERNELS[self.implementation]}_{self.map}"


def operands(case: Case) -> ScanInputs:
    """Return the shapes of a mixer's scan: everything fused."""
    b, l, d, n = case.batch, case.length, case.channels, case.states  # noqa: E741

    def struct(*shape, dtype=case.dtype) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    wide = partial(struct, dtype="float32")
    return ScanInputs(
        u=struct(b, l, d), delta=struct(b, l, d), A=wide(d, n), B=struct(b, l, 1, n),
        C=struct(b, l, 1, n), D=wide(d), z=struct(b, l, d), delta_bias=wide(d),
    )  # fmt: skip


def program(case: Case):
    """Return the map as a function, and the shapes of its arguments."""
    x, maps = operands(case), load(case.implementation)

    def along(x) -> Any:
        shape = (case.directions, *x.shape)
        return jax.ShapeDtypeStruct(shape, x.dtype)

    if case.map == "scan":
        return partial(maps.scan, delta_softplus=True, save_states=True), [x]
    if case.map == "tangent":
        tangents = jax.tree.map(along, x)
        return partial(maps.tangent, delta_softplus=True), [x, tangents]
    (b, l, d), n = x.u.shape, case.states  # noqa: E741
    states = jax.ShapeDtypeStruct((b, num_chunks(l), n, d), "float32")
    last_state = along(jax.ShapeDtypeStruct((b, d, n), "float32"))
    wanted = tuple(k for k, v in x._asdict().items() if v is not None)
    pull = partial(maps.cotangent, delta_softplus=True, wanted=wanted)
    return pull, [x, states, along(x.u), last_state]


def measure(case: Case, folder: str) -> dict[str, Any]:
    """Compile a case and return what it took and what its kernel uses."""
    function, shapes = program(case)
    start = time.perf_counter()
    compiled = compile_for_gpu(case.gpu, case.label, function, *shapes, folder=folder)
    seconds = time.perf_counter() - start
    used = resources(folder, case.gpu, case.label, case.kernel)
    memory = compiled.memory_analysis()
    assert memory is not None
    return {
        **case._asdict(),
        "kernel": case.kernel,
        "seconds": seconds,
        "temp": memory.temp_size_in_bytes,
        "is_named": case.kernel in (compiled.as_text() or ""),
        "atomics": count_atomics(folder, case.label),
        **used._asdict(),
    }


def text(value: int | None) -> str:
    """Return a number, or a dash where it is not known."""
    return "-" if value is None else str(value)


def show(rows: list[dict[str, Any]]) -> None:
    """Print one line a case."""
    table = Table("kernel", "GPU", "map", "dtype", "d", "seconds", "registers",
                  "spill bytes", "shared bytes", "temp MB")  # fmt: skip
    for r in rows:
        table.add_row(
            r["implementation"], r["gpu"], r["map"], r["dtype"], str(r["channels"]),
            f"{r['seconds']:.1f}", text(r["registers"]), text(r["spill_bytes"]),
            text(r["shared_bytes"]), f"{r['temp'] / 1e6:.0f}",
        )  # fmt: skip
    Console(width=120).print(table)


def cases(options) -> Iterator[Case]:
    """Yield what the options ask for."""
    for implementation in [name for name in SERVED if name in IMPLEMENTATIONS]:
        gpus = [gpu for gpu in SERVED[implementation] if gpu in (options.gpu or gpu)]
        for gpu, model, dtype, name in itertools.product(
            gpus, options.model or SHAPES, options.dtype or DTYPES, options.map or MAPS
        ):
            channels, states = SHAPES[model]
            yield Case(
                implementation, gpu, name, dtype, channels, states=states,
                batch=options.batch, length=options.length,
            )  # fmt: skip


def main() -> None:
    """Parse options, compile and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", action="append", help="sm_80, sm_89, sm_90; all")
    parser.add_argument("--model", action="append", choices=SHAPES, help="all")
    parser.add_argument("--map", action="append", choices=MAPS, help="all")
    parser.add_argument("--dtype", action="append", help="bfloat16 and float32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--json", help="file to write the numbers to")
    options = parser.parse_args()
    if why := why_no_gpu_compiler():
        sys.exit(why)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        dump_to(folder)
        for case in cases(options):
            rows.append(measure(case, folder))
            Console(stderr=True).print(f"[dim]{case.label}[/dim]")
    show(rows)
    if options.json:
        packages = ("jax", "jaxlib", "jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12")
        machine = {
            "python": platform.python_version(),
            "versions": {name: metadata.version(name) for name in packages},
            "chunk": CHUNK,
        }
        with open(options.json, "w") as file:
            json.dump({"machine": machine, "results": rows}, file, indent=1)


if __name__ == "__main__":
    main()
