"""Measure what a language model loses by fewer bits, and what a token then takes.

    python benchmarks/precision.py --data enwik8.gz --bytes 500000
    python benchmarks/precision.py --model mamba-130m   # random weights, speed alone

Bits per byte are of the embedded model on the last bytes of a file, read in 16 streams
from front to back. Speed is of greedy `generate` and of a loop of compiled steps in
Python, batch 1; programs run in turn, medians are shown.
"""

import argparse
import gzip
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table
from timing import interleave

import jmamba
from jmamba.embedded.text import load_embedded
from jmamba.models.quantisation import quantise
from jmamba.training.bits_per_byte import bits_per_byte

PRECISIONS = ("float32", "bfloat16", "int8")


def make_model(name, precision):
    """Return the embedded model, or one of a named size with random weights."""
    dtype = jnp.float32 if precision == "int8" else jnp.dtype(precision)
    if name is None:
        weights = "int8" if precision == "int8" else None
        return load_embedded(dtype=dtype, weights=weights)[0]
    kinds = {
        True: (jmamba.Mamba2Config, jmamba.Mamba2LM),
        False: (jmamba.MambaConfig, jmamba.MambaLM),
    }
    config, kind = kinds["mamba2" in name]
    dtypes = {"dtype": dtype, "param_dtype": dtype}
    model = kind(config.named(name), rngs=nnx.Rngs(0), **dtypes)
    return quantise(model) if precision == "int8" else model


def generation(model, count):
    """Return a program that generates `count` tokens."""
    prompt = jnp.ones((1, 8), jnp.int32)
    return lambda: jax.block_until_ready(
        jmamba.generate(model, prompt, max_new_tokens=count, stop_tokens=())
    )


def steps(model, count):
    """Return a program that runs `count` compiled steps from Python."""
    graphdef, state = nnx.split(model)

    @jax.jit
    def step(state, token, cache):
        out = nnx.merge(graphdef, state)(token, cache=cache)
        return jnp.argmax(out.logits, axis=-1), out.cache

    def run():
        token, cache = jnp.zeros((1, 1), jnp.int32), model.empty_cache(1)
        for _ in range(count):
            token, cache = step(state, token, cache)
        token.block_until_ready()

    return run


def read_end(path, count):
    """Return the last bytes of a file, gzipped or not."""
    data = Path(path).read_bytes()
    data = gzip.decompress(data) if path.endswith(".gz") else data
    return np.frombuffer(data[-count:], np.uint8)


def main():
    """Parse options, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a named configuration; else the embedded one")
    parser.add_argument("--data", help="a file whose last bytes are predicted")
    parser.add_argument("--bytes", type=int, default=500_000)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", help="file to write the numbers to")
    options = parser.parse_args()
    models = {name: make_model(options.model, name) for name in PRECISIONS}
    programs = {}
    for name, model in models.items():
        programs[name, "generate"] = generation(model, options.tokens)
        programs[name, "first token"] = generation(model, 1)
        programs[name, "steps"] = steps(model, options.tokens)
    for run in programs.values():
        run()
    timings = interleave(programs, options.runs)
    table, results = Table("weights", "MB", "ms/token", "ms/step", "bits/byte"), {}
    for name, model in models.items():
        seconds = {kind: timings[name, kind].median for _, kind in programs}
        token = (seconds["generate"] - seconds["first token"]) / (options.tokens - 1)
        found = {
            "bytes": sum(x.nbytes for x in jax.tree.leaves(nnx.state(model))),
            "seconds_per_token": token,
            "seconds_per_step": seconds["steps"] / options.tokens,
        }
        if options.data and options.model is None:
            start, data = time.perf_counter(), read_end(options.data, options.bytes)
            found["bits_per_byte"] = bits_per_byte(model, data)
            found["seconds_of_reading"] = time.perf_counter() - start
        results[name] = found
        bits = found.get("bits_per_byte")
        table.add_row(
            name, f"{found['bytes'] / 1e6:,.1f}", f"{token * 1e3:.2f}",
            f"{found['seconds_per_step'] * 1e3:.2f}", f"{bits:.4f}" if bits else "-",
        )  # fmt: skip
    Console().print(table)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
