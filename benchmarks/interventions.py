"""Time sweeps and captures beside the plain forward passes that they need.

    python benchmarks/interventions.py                    # mamba-130m's shape, minutes
    python benchmarks/interventions.py --points 32 --runs 3 --json out.json

`capture`: a forward that keeps everything but states, beside a plain one. `sweep`: a
patch of the residual stream at some points of the grid of layers and tokens, beside as
many plain forwards in batches of the same size, which is what the sweep needs. Weights
are random; a sweep of the whole grid takes as many times longer as it has more points.
"""

import argparse
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from peers import versions
from rich.console import Console
from rich.table import Table
from timing import interleave

from jmamba import MambaConfig, MambaLM
from jmamba.interventions import capture, replace, sweep

MEMORY = 2**30
"""Bytes that the points of a sweep may take."""


def make_model(d_model: int, layers: int, vocabulary: int) -> MambaLM:
    """Return a model with random weights."""
    config = MambaConfig(vocab_size=vocabulary, d_model=d_model, num_layers=layers)
    return MambaLM(config, rngs=nnx.Rngs(0))


@partial(jax.jit, static_argnames="graphdef")
def read_last(graphdef, state, tokens):
    """Return the logits of the last token: what a sweep reads, without edits."""
    model = nnx.merge(graphdef, state)
    return model.read(model.run_layers(model.embed(tokens)).x)


def measure_capture(model: MambaLM, tokens: jax.Array, runs: int) -> dict:
    """Time a forward that keeps everything but states in turn with a plain one."""
    programs = {
        "forward": lambda: jax.block_until_ready(model(tokens).logits),
        "capture": lambda: jax.block_until_ready(
            jax.tree.leaves(capture(model, tokens))
        ),
    }
    return {name: t._asdict() for name, t in interleave(programs, runs).items()}


def measure_sweep(model: MambaLM, tokens: jax.Array, points: int, runs: int) -> dict:
    """Time a sweep in turn with plain forwards in batches of the same size."""
    edit = replace(
        "residual_out", capture(model, tokens, "residual_out").values.popitem()[1]
    )
    length = tokens.shape[1]
    layers = np.arange(model.config.num_layers)[:: max(1, model.config.num_layers // 4)]
    places = np.linspace(0, length - 1, max(1, points // len(layers)), dtype=int)
    over = {"layers": layers.tolist(), "positions": np.unique(places).tolist()}
    steps: list[int] = []

    def run_sweep():
        steps.clear()
        sweep(
            *(model, tokens, edit, over),
            target=0,
            memory_limit=MEMORY,
            progress=lambda stage, done, total: steps.append(done),
        )

    run_sweep()
    total, width = steps[-1], steps[0]
    graphdef, state = nnx.split(model)
    batch = jnp.tile(tokens, (width, 1))

    def run_plain():
        for _ in steps:
            jax.block_until_ready(read_last(graphdef, state, batch))

    timed = interleave({"plain forwards": run_plain, "sweep": run_sweep}, runs)
    return {
        "points": total,
        "at once": width,
        "seconds": {name: t._asdict() for name, t in timed.items()},
    }


def main():
    """Parse options, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--d-model", type=int, default=768)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=50280)
    parser.add_argument("--points", type=int, default=64, help="of the sweep")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", help="file to write the numbers to")
    options = parser.parse_args()
    console = Console(width=110)
    model = make_model(options.d_model, options.layers, options.vocabulary)
    drawn = np.random.default_rng(0).integers(0, options.vocabulary, options.length)
    tokens = jnp.asarray(drawn[None], jnp.int32)
    kept = measure_capture(model, tokens, options.runs)
    swept = measure_sweep(model, tokens, options.points, options.runs)
    table = Table("", "plain, s (median)", "with it, s (median)", "ratio")
    rows = {
        "capture of all but states": (kept["forward"], kept["capture"]),
        f"sweep of {swept['points']} points, {swept['at once']} at once": tuple(
            swept["seconds"].values()
        ),
    }
    for name, (plain, ours) in rows.items():
        ratio = ours["median"] / plain["median"]
        cells = (f"{plain['median']:.3f}", f"{ours['median']:.3f}", f"{ratio:.2f}x")
        table.add_row(name, *cells)
    console.print(table)
    machine = {"device": str(jax.devices()[0]), "versions": versions("jmamba", "jax")}
    console.print(machine)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": machine, "capture": kept, "sweep": swept}, file)


if __name__ == "__main__":
    main()
