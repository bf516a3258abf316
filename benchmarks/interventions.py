"""Time sweeps and captures beside the plain forward passes that they need.

    python benchmarks/interventions.py                    # mamba-130m's shape, minutes
    python benchmarks/interventions.py --positions 128 --runs 1 --json out.json  # hours

`capture`: a forward that keeps everything but states, beside a plain one. `sweep`: a
patch of the residual stream at all layers and some tokens, beside as many plain
forwards in batches of the same size: what a sweep needs that runs all layers at each
point. Weights are random; a sweep of all tokens takes as many times longer as it has
more points. All programs run in turn, and the fastest run stands beside the median: on
a machine that others use too, the nearer the two ratios, the more they say.
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


def measure_sweep(model: MambaLM, tokens: jax.Array, count: int, runs: int) -> dict:
    """Time a sweep in turn with plain forwards in batches of the same size."""
    edit = replace(
        "residual_out", capture(model, tokens, "residual_out").values.popitem()[1]
    )
    places = np.linspace(0, tokens.shape[1] - 1, count, dtype=int)
    over = {"layers": range(model.config.num_layers), "positions": places.tolist()}
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
    parser.add_argument("--positions", type=int, default=2, help="of the sweep")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", help="file to write the numbers to")
    options = parser.parse_args()
    console = Console(width=110)
    model = make_model(options.d_model, options.layers, options.vocabulary)
    drawn = np.random.default_rng(0).integers(0, options.vocabulary, options.length)
    tokens = jnp.asarray(drawn[None], jnp.int32)
    kept = measure_capture(model, tokens, options.runs)
    swept = measure_sweep(model, tokens, options.positions, options.runs)
    heads = "plain, s (fastest)", "with it, s (fastest)", "ratio (of fastest)"
    table = Table("", *heads)
    rows = {
        "capture of all but states": (kept["forward"], kept["capture"]),
        f"sweep of {swept['points']} points, {swept['at once']} at once": tuple(
            swept["seconds"].values()
        ),
    }
    for name, (plain, ours) in rows.items():
        ratio, least = (ours[k] / plain[k] for k in ("median", "fastest"))
        both = [f"{one['median']:.3f} ({one['fastest']:.3f})" for one in (plain, ours)]
        table.add_row(name, *both, f"{ratio:.2f} ({least:.2f})")
    console.print(table)
    machine = {"device": str(jax.devices()[0]), "versions": versions("jmamba", "jax")}
    console.print(machine)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": machine, "capture": kept, "sweep": swept}, file)


if __name__ == "__main__":
    main()
