"""Time every implementation of the scan that runs here, at the named shapes.

    python benchmarks/scan.py                          # what this device has
    python benchmarks/scan.py --shape mamba-130m --mode training analysis
    python benchmarks/scan.py --implementation xla_chunked --json out.json

Beside ours, in turn in the same run, stand mamba_ssm's CUDA scan and
jax-linear-attention where they are installed. A row is one program: milliseconds
(median), bytes of operands and results a second, and how much of the time the two
bounds explain: reading and writing those bytes once, and computing n exponentials for
every token and channel.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from peers import jax_linear_attention_scan, mamba_ssm_scan, versions
from rich.console import Console
from rich.table import Table
from shapes import SHAPES
from timing import interleave

from jmamba.ops import selective_scan, selective_state_update
from jmamba.report.environment import lowering_target
from jmamba_kernels import IMPLEMENTATIONS, choose

DIRECTIONS = ("forward", "gradient", "ungated, of a sum", "ungated, weighted")
"""What is timed, of each implementation that has it."""

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
ON = {"cpu": ("xla_loop", "xla_chunked"), "tpu": ("pallas_tpu", "xla_chunked")}
"""Platform -> implementations to time; elsewhere the chosen one and the XLA form."""


class Mode(NamedTuple):
    """How the scan is used."""

    batch: int
    length: int
    backward: bool


MODES = {
    "training": Mode(8, 2048, True),
    "prefill": Mode(1, 2048, False),
    "decode": Mode(64, 1, False),
    "analysis": Mode(1, 16384, True),
}


class Device(NamedTuple):
    """Peak rates: bytes of memory a second, exponentials a second."""

    memory: float
    exponentials: float


DEVICES = {
    # multiprocessors x 16 exponentials a clock x boost clock
    "NVIDIA H100 80GB HBM3": Device(3.35e12, 132 * 16 * 1.98e9),
    "NVIDIA A100-SXM4-40GB": Device(1.555e12, 108 * 16 * 1.41e9),
    "NVIDIA L4": Device(0.3e12, 58 * 16 * 2.04e9),
}
"""Device kind -> vendor's figures; bounds are left blank for others."""


def draw_operands(mode: Mode, channels: int, states: int, dtype) -> dict:
    """Return random operands by name, with D, z and delta_bias."""
    draw = np.random.default_rng(0)

    def normal(*shape, dtype=dtype):
        return jnp.asarray(draw.standard_normal(shape, np.float32), dtype)

    over_time = (mode.batch, mode.length, channels)
    A = -np.tile(np.arange(1, states + 1, dtype=np.float32), (channels, 1))
    return {
        "u": normal(*over_time),
        "delta": normal(*over_time) - jnp.asarray(3, dtype),
        "A": jnp.asarray(A),
        "B": normal(mode.batch, mode.length, states),
        "C": normal(mode.batch, mode.length, states),
        "D": normal(channels, dtype=jnp.float32),
        "z": normal(*over_time),
        "delta_bias": normal(channels, dtype=jnp.float32),
    }


def ours(operands: dict, mode: Mode, implementation: str):
    """Return name -> program of one implementation.

    Beside the gradient of all operands stand two without a gate: of a sum, whose
    cotangent is a constant, and of a weighted sum.
    """
    scan = partial(selective_scan, delta_softplus=True, implementation=implementation)
    ungated = {name: x for name, x in operands.items() if name != "z"}

    def total(operands, weights=1.0):
        return jnp.sum(weights * scan(**operands).y.astype(jnp.float32))

    def compiled(function, *arguments):
        run = jax.jit(function).lower(*arguments).compile()
        return lambda: jax.block_until_ready(run(*arguments))

    programs = {"forward": compiled(lambda operands: scan(**operands).y, operands)}
    if mode.backward:
        gradient, weights = jax.grad(total), operands["z"].astype(jnp.float32)
        programs["gradient"] = compiled(gradient, operands)
        programs["ungated, of a sum"] = compiled(gradient, ungated)
        programs["ungated, weighted"] = compiled(gradient, ungated, weights)
    return programs


def decode(operands: dict):
    """Return the program of one step of generation, which no implementation chooses."""
    tokens = {k: x[:, 0] if x.ndim == 3 else x for k, x in operands.items()}
    (batch, channels), states = tokens["u"].shape, tokens["A"].shape[1]
    state = jnp.zeros((batch, channels, states), jnp.float32)
    step = jax.jit(partial(selective_state_update, delta_softplus=True))
    step = step.lower(state, **tokens).compile()
    return {"forward": lambda: jax.block_until_ready(step(state, **tokens))}


def count_bytes(operands: dict, mode: Mode, name: str) -> int:
    """Return the bytes that must move: operands in, results out, each once."""
    size = {k: x.size * x.dtype.itemsize for k, x in operands.items()}
    if mode.length == 1:
        state = 4 * operands["u"].size * operands["A"].shape[1]
        return sum(size.values()) + size["u"] + 2 * state
    if name == "forward":
        return sum(size.values()) + size["u"]
    # the forward pass runs too; then operands and d_y in, d_operands out
    return 3 * sum(size.values()) + 2 * size["u"]


def measure(shape: str, mode_name: str, dtype: str, implementations, runs: int):
    """Yield a row for each program at a shape."""
    mode, (channels, states) = MODES[mode_name], SHAPES[shape]
    operands = draw_operands(mode, channels, states, DTYPES[dtype])
    programs: dict[str, dict | None] = {}
    if mode.length == 1:
        programs["state_update"] = decode(operands)
    else:
        programs = {name: ours(operands, mode, name) for name in implementations}
        programs["mamba_ssm"] = mamba_ssm_scan(operands, backward=mode.backward)
        programs["jax-linear-attention"] = jax_linear_attention_scan(
            operands, backward=mode.backward
        )
    device = DEVICES.get(jax.devices()[0].device_kind)
    for direction in DIRECTIONS:
        beside = {
            name: made[direction]
            for name, made in programs.items()
            if made is not None and direction in made
        }
        for name, timing in interleave(beside, runs).items() if beside else ():
            moved = count_bytes(operands, mode, direction)
            row = {
                "shape": shape, "mode": mode_name, "dtype": dtype,
                "program": name, "direction": direction,
                "milliseconds": timing.median * 1e3,
                "gigabytes_per_second": moved / timing.median / 1e9,
            }  # fmt: skip
            if device is not None:
                exponentials = operands["u"].size * states
                passes = 1 if direction == "forward" else 3
                row["of_memory_bound"] = moved / device.memory / timing.median
                row["of_exponential_bound"] = (
                    passes * exponentials / device.exponentials / timing.median
                )
            yield row


def show(rows) -> Table:
    """Return the rows as a table."""
    title = f"Selective scan on {jax.devices()[0].device_kind}"
    table = Table(title=title, box=None, padding=(0, 1))
    for column in ("shape", "mode", "dtype", "program", "direction"):
        table.add_column(column, no_wrap=True)
    for column in ("ms", "GB/s", "memory", "exp."):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        shares = (row.get("of_memory_bound"), row.get("of_exponential_bound"))
        table.add_row(
            row["shape"], row["mode"], row["dtype"], row["program"], row["direction"],
            f"{row['milliseconds']:.3f}", f"{row['gigabytes_per_second']:.1f}",
            *("" if share is None else f"{share:.0%}" for share in shares),
        )  # fmt: skip
    return table


def parse_arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["mamba-130m"])
    parser.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["float32"])
    parser.add_argument("--implementation", nargs="+", choices=IMPLEMENTATIONS)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the rows here")
    return parser.parse_args()


def main():
    """Measure, and print the table."""
    arguments = parse_arguments()
    target, console = lowering_target(), Console()
    chosen, _ = choose(None, target)
    implementations = arguments.implementation or ON.get(
        target.platform, tuple(dict.fromkeys((chosen, "xla_chunked")))
    )
    rows = []
    for shape in arguments.shape:
        for mode in arguments.mode:
            for dtype in arguments.dtype:
                rows += measure(shape, mode, dtype, implementations, arguments.runs)
                console.log(f"{shape} {mode} {dtype}")
    console.print(show(rows))
    if arguments.json is not None:
        found = versions("jax", "jaxlib", "torch", "mamba_ssm", "jax-linear-attention")
        device = jax.devices()[0].device_kind
        about = {"versions": found, "device": device, "rows": rows}
        arguments.json.write_text(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()
