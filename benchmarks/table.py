"""Print the table of what jmamba takes, beside what bounds it, in one run.

    python benchmarks/table.py --json out.json       # half an hour on two quiet cores
    python benchmarks/table.py decode prefill --runs 9
    python benchmarks/table.py --model mamba-130m scan

Each row is measured by the file of its noun. What stands beside a row was run in turn
with it, or is what it is counted from; a ratio is of one run. Measure on a machine
that does nothing else.
"""

import argparse
from collections.abc import Callable

import numpy as np
from cold_starts import time_commands, time_imports
from model_rows import (
    decode_program,
    prefill_program,
    products_program,
    random_language_model,
)
from peers import installed
from records import write_record
from rich.console import Console
from rich.table import Table
from scan_rows import time_of_states
from timing import interleave
from training_rows import training_programs

import jmamba


def in_turn(what, programs, runs, beside=None):
    """Return one row: medians of programs that are run in turn, in milliseconds."""
    timings = interleave(programs, runs)
    numbers = {name: timing.median * 1e3 for name, timing in timings.items()}
    return {"what": what, "unit": "ms", **numbers, "beside": beside}


def decode(options):
    """Decode in float32 and in bfloat16, and read all weights once."""
    config = jmamba.MambaConfig.named(options.model)
    prompt = np.zeros((1, 8), np.int32)
    models = {
        "jmamba": random_language_model(config),
        "bfloat16": random_language_model(
            config, dtype="bfloat16", param_dtype="bfloat16"
        ),
    }
    programs = {k: decode_program(m, prompt, options.decode) for k, m in models.items()}
    return [in_turn(f"decode {options.decode} tokens", programs, options.runs)]


def prefill(options):
    """Read a prompt, beside its matrix products alone."""
    model = random_language_model(jmamba.MambaConfig.named(options.model))
    tokens = np.zeros((1, options.length), np.int32)
    programs = {
        "jmamba": prefill_program(model, tokens),
        "products": products_program(model, tokens),
    }
    what = f"prefill {options.length}"
    return [in_turn(what, programs, options.runs, "products")]


def scan(options):
    """Run the scan and its gradients at several shapes."""
    shapes = [(1024, 1536), (16_384, 256), (65_536, 256), (1024, 8192)]
    return time_of_states(shapes, options.runs)


def training(options):
    """Take the gradients of a step of the embedded model's shape."""
    programs = training_programs()
    what = "training step, embedded shape, 5 x 256 tokens"
    return [in_turn(what, programs, options.runs, "products")]


def cold(options):
    """Start commands from nothing."""
    return time_commands([50, 200])


def imports(options):
    """Import jmamba, beside what it stands on."""
    seconds = time_imports(options.runs)
    what = {"what": "import jmamba", "unit": "CPU s", "beside": "jax and nnx"}
    return [what | seconds]


def attention(options):
    """Reduce the hidden attention of a Vim-small layer."""
    from attention import measure_layer

    found = measure_layer(options.runs, 768, 197)["seconds"]
    numbers = {name: t["median"] * 1e3 for name, t in found.items()}
    ours = {"jmamba": numbers.pop("jmamba mean"), **numbers}
    beside = next((name for name in ours if name.startswith("torch")), None)
    return [{"what": "hidden attention", "unit": "ms", **ours, "beside": beside}]


def jacobian(options):
    """Compute the norms of all blocks of a layer's Jacobian."""
    from jacobian import jacobian_rows

    config = jmamba.MambaConfig.named(options.model)
    rows = list(jacobian_rows(config, 128, 64, 8))
    ours = next(row for row in rows if row["who"].startswith("jmamba"))
    peers = {row["who"]: row["seconds"] for row in rows if row is not ours}
    beside = next(iter(peers), None)
    what = {"what": ours["row"], "unit": "s", "beside": beside}
    return [what | {"jmamba": ours["seconds"]} | peers]


def llama(options):
    """Prefill and decode beside llama.cpp, if it is there."""
    if not installed("llama_cpp", "gguf"):
        return []
    from llama import measure_shape

    found = []
    for row in measure_shape(options.model, ["f32", "f16", "q8_0"], options):
        numbers = {name: t["median"] * 1e3 for name, t in row["seconds"].items()}
        what = f"{row['program']}, llama.cpp {row['llama.cpp']}, ours {row['jmamba']}"
        found.append({"what": what, "unit": "ms", **numbers, "beside": "llama.cpp"})
    return found


ROWS: dict[str, Callable[[argparse.Namespace], list[dict]]] = {
    "decode": decode,
    "prefill": prefill,
    "llama": llama,
    "scan": scan,
    "training": training,
    "cold": cold,
    "imports": imports,
    "attention": attention,
    "jacobian": jacobian,
}
"""Name -> what measures its rows."""


def show(results):
    """Print every number, and how many times what stands beside it ours takes."""
    table = Table("what", "unit", "jmamba", "beside", "ours / beside")
    for row in results:
        numbers = {k: v for k, v in row.items() if isinstance(v, float)}
        ours, *_ = (
            numbers.items()
            if "jmamba" not in numbers
            else [("jmamba", numbers["jmamba"])]
        )
        others = ", ".join(
            f"{name} {value:,.2f}" for name, value in numbers.items() if name != ours[0]
        )
        beside = numbers.get(row.get("beside") or "")
        ratio = "-" if beside is None else f"{ours[1] / beside:.2f}x"
        first = "" if ours[0] == "jmamba" else f"{ours[0]} "
        table.add_row(row["what"], row["unit"], f"{first}{ours[1]:,.2f}", others, ratio)
    Console(width=140).print(table)


def main():
    """Parse options, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], help="; all if none")
    parser.add_argument("--model", default="mamba-130m", help="a named configuration")
    parser.add_argument("--length", type=int, default=512, help="tokens of prefill")
    parser.add_argument("--decode", type=int, default=32, help="tokens to decode")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", help="file to write the numbers to")
    options = parser.parse_args()
    results = []
    for name in options.rows or ROWS:
        results += ROWS[name](options)
        Console(stderr=True).print(f"[dim]{name} done[/dim]")
    show(results)
    packages = ("torch", "transformers", "mambapy", "llama-cpp-python", "gguf")
    write_record(options.json, results, *packages)


if __name__ == "__main__":
    main()
