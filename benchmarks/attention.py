"""Time hidden attention beside PyTorch loops, and weigh it at sizes that hurt.

    python benchmarks/attention.py                    # a few minutes on a CPU
    python benchmarks/attention.py layer --runs 5 --json out.json
    python benchmarks/attention.py stack
    python benchmarks/attention.py row

`layer`: the mean over channels of a Vim-small layer (768 channels, 16 states, 197
tokens, both directions) beside a double loop over (row, column) with a running product
and the vectorised log-space form, both in PyTorch, in turn in one run. `stack`: the
mean matrices of 24 layers of mamba-130m's shape at 1,024 tokens, and what the process
grew by. `row`: what the last token sees, at growing lengths, as time and memory.
"""

import argparse
import json
import platform
import resource
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from peers import installed, versions
from rich.console import Console
from rich.table import Table
from timing import interleave

from jmamba.attention import reduced_attention
from jmamba.types import BidirectionalRecurrence, Recurrence

TORCH = ("torch double loop", "torch log space")


def draw_direction(seed, length, channels, states=16) -> dict[str, np.ndarray]:
    """Draw delta, A, B and C of one sample, of the sizes that trained models have."""
    draw = np.random.default_rng(seed)
    steps = np.exp(draw.uniform(np.log(1e-3), np.log(0.1), (1, length, channels)))
    A = -np.tile(np.arange(1, states + 1, dtype=np.float32), (channels, 1))
    return {
        "delta": steps.astype(np.float32),
        "A": A,
        "B": draw.standard_normal((1, length, states), np.float32),
        "C": draw.standard_normal((1, length, states), np.float32),
    }


def parameters(arrays: dict[str, np.ndarray]) -> Recurrence:
    """Return selective parameters; attention asks for nothing else of them."""
    delta, A, B, C = (jnp.asarray(arrays[name]) for name in ("delta", "A", "B", "C"))
    return Recurrence(delta, delta, A, B[:, :, None], C[:, :, None])


def double_loop(delta, A, B, C):
    """Return the mean over channels, pair after pair, decays multiplied on the way."""
    import torch

    length = delta.shape[0]
    decay, weight = torch.exp(delta[..., None] * A), delta[..., None] * B[:, None]
    out = torch.zeros(length, length)
    for i in range(length):
        product = torch.ones_like(A)
        for j in range(i, -1, -1):
            out[i, j] = ((product * weight[j]) @ C[i]).mean()
            product = product * decay[j]
    return out


def log_space(delta, A, B, C):
    """Return the mean over channels, all pairs of a channel at once."""
    import torch

    S = torch.cumsum(delta, 0)
    ahead = torch.ones(len(S), len(S), dtype=torch.bool).triu(1)
    out = torch.zeros(len(S), len(S))
    for d in range(delta.shape[1]):
        elapsed = (S[:, None, d] - S[None, :, d]).masked_fill(ahead, torch.inf)
        decay = torch.exp(elapsed[..., None] * A[d])
        out += torch.einsum("in,ijn,jn->ij", C, decay, B) * delta[None, :, d]
    return out / delta.shape[1]


def torch_program(one_direction, directions):
    """Return a program that adds both directions, or None without PyTorch."""
    if not installed("torch"):
        return None
    import torch

    def tensors(arrays):
        named = {name: torch.tensor(value) for name, value in arrays.items()}
        return {k: v if k == "A" else v[0] for k, v in named.items()}

    forward, backward = map(tensors, directions)

    def run():
        with torch.no_grad():
            return one_direction(**forward) + one_direction(**backward).flip(0, 1)

    return run


def ours(directions, reduction):
    """Return our program: compiled, and waited for."""
    forward, backward = map(parameters, directions)
    inputs = BidirectionalRecurrence(forward, backward)
    run = jax.jit(partial(reduced_attention, reduction=reduction))
    compiled = run.lower(inputs).compile()
    return lambda: jax.block_until_ready(compiled(inputs))


def measure_layer(runs: int, channels: int, length: int) -> dict:
    """Time one layer of Vision Mamba in turn with the loops, and compare the values."""
    directions = [draw_direction(seed, length, channels) for seed in (0, 1)]
    programs = {
        "jmamba mean": ours(directions, "mean"),
        "jmamba mean of |.|": ours(directions, "mean_abs"),
        TORCH[0]: torch_program(double_loop, directions),
        TORCH[1]: torch_program(log_space, directions),
    }
    values = {}

    def keep(name, program):
        def run():
            values[name] = program()

        return run

    timings = interleave({k: keep(k, v) for k, v in programs.items() if v}, runs)
    errors = {}
    if TORCH[0] in values:
        expected = np.asarray(values[TORCH[0]])
        for name in ("jmamba mean", TORCH[1]):
            difference = np.abs(np.asarray(values[name]) - expected).max()
            errors[name] = float(difference / np.abs(expected).max())
    return {
        "row": f"one layer, d {channels}, l {length}, both directions",
        "seconds": {name: t._asdict() for name, t in timings.items()},
        "error relative to the double loop": errors,
    }


def temp_bytes(compiled) -> int:
    """Return what a compiled program holds beside its operands and results."""
    return compiled.memory_analysis().temp_size_in_bytes


def peak_bytes() -> int:
    """Return the most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure_stack(layers: int, channels: int, length: int) -> dict:
    """Compute the matrices of all layers of a language model, operands included."""
    before, start = peak_bytes(), time.perf_counter()
    drawn = [draw_direction(seed, length, channels) for seed in range(layers)]
    inputs = jax.tree.map(lambda *x: jnp.stack(x), *map(parameters, drawn))
    run = jax.jit(
        lambda inputs: jax.lax.map(lambda one: reduced_attention(one, "mean"), inputs)
    )
    compiled = run.lower(inputs).compile()
    ready = time.perf_counter()
    jax.block_until_ready(compiled(inputs))
    end = time.perf_counter()
    return {
        "row": f"{layers} layers, d {channels}, l {length}",
        "seconds": {"run": end - ready, "draw and compile": ready - start},
        "peak_growth_bytes": peak_bytes() - before,
        "temp_bytes": temp_bytes(compiled),
    }


def measure_rows(lengths: list[int], channels: int, runs: int) -> list[dict]:
    """Time the last token's row, reduced over channels, at growing lengths."""
    results = []
    for length in lengths:
        recurrence = parameters(draw_direction(0, length, channels))
        last = partial(reduced_attention, reduction="mean_abs", rows=[-1])
        compiled = jax.jit(last).lower(recurrence).compile()
        program = {
            "row": partial(
                lambda f, x: jax.block_until_ready(f(x)), compiled, recurrence
            )
        }
        results.append({
            "row": f"last token, d {channels}, l {length}",
            "seconds": interleave(program, runs)["row"]._asdict(),
            "temp_bytes": temp_bytes(compiled),
        })  # fmt: skip
    return results


def show_layer(result: dict, console: Console) -> None:
    """Print medians, and how many times longer each takes than ours."""
    seconds = {name: t["median"] for name, t in result["seconds"].items()}
    mean = seconds["jmamba mean"]
    table = Table(
        result["row"], "milliseconds (median)", "times jmamba's mean", "error"
    )
    for name, value in seconds.items():
        error = result["error relative to the double loop"].get(name)
        shown = "-" if error is None else f"{error:.0e}"
        table.add_row(name, f"{value * 1e3:,.1f}", f"{value / mean:.1f}x", shown)
    console.print(table)


def show_rest(stack: dict | None, rows: list[dict], console: Console) -> None:
    """Print time and memory of the large sizes."""
    table = Table("", "seconds", "peak growth MB", "temp MB")
    if stack is not None:
        growth = f"{stack['peak_growth_bytes'] / 1e6:.0f}"
        temp = f"{stack['temp_bytes'] / 1e6:.0f}"
        table.add_row(stack["row"], f"{stack['seconds']['run']:.1f}", growth, temp)
    for row in rows:
        seconds, temp = row["seconds"]["median"], row["temp_bytes"] / 1e6
        table.add_row(row["row"], f"{seconds:.3f}", "-", f"{temp:.0f}")
    console.print(table)


def main():
    """Parse options, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", nargs="?", default="all", choices=["all", "layer", "stack", "row"]
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--channels", type=int, default=768, help="of `layer`")
    parser.add_argument("--length", type=int, default=197, help="of `layer`")
    parser.add_argument("--json", help="file to write the numbers to")
    options = parser.parse_args()
    console, results = Console(width=110), {}
    stack, rows = None, []
    if options.what in ("all", "stack"):  # first: a peak never comes down again
        results["stack"] = stack = measure_stack(24, 1536, 1024)
    if options.what in ("all", "row"):
        lengths = [4096, 16_384, 65_536]
        results["rows"] = rows = measure_rows(lengths, 1536, options.runs)
    if stack is not None or rows:
        show_rest(stack, rows, console)
    if options.what in ("all", "layer"):
        layer = measure_layer(options.runs, options.channels, options.length)
        results["layer"] = layer
        show_layer(layer, console)
    machine = {
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "device": str(jax.devices()[0]),
        "versions": versions("jmamba", "jax", "flax", "torch"),
    }
    console.print(machine)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": machine, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
