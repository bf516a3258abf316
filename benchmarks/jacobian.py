"""Measure derivatives of the token dynamics beside PyTorch's, in one run.

    python benchmarks/jacobian.py                      # a quarter of an hour
    python benchmarks/jacobian.py --length 32 --what jacobian
    python benchmarks/jacobian.py --what depth contraction --json out.json

Rows: the norms of all blocks (i, j) of the Jacobian of one layer, exact, beside
torch.func's jacfwd and jacrev on transformers' layer with the same weights; exponents
over depth; the contraction map of all layers. The peers compute the same directions one
chunk after another at a steady rate, so they are timed on some of them (--directions)
and the time is multiplied: such rows say "scaled". Weights are random, in float32.
"""

import argparse
import dataclasses
import json
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from peers import transformers_layer, versions
from programs import jax_program
from rich.console import Console
from rich.table import Table

import jmamba
from jmamba.dynamics import (
    contraction_map,
    depth_exponents,
    jacobian_norms,
    layer_span,
    layer_stack,
)


def seconds(program):
    """Return how long a program takes, once."""
    start = time.perf_counter()
    program()
    return time.perf_counter() - start


def row(name, who, taken, *, scale=1.0, temp_bytes=None):
    """Return one measurement; `scale` says by what its time was multiplied."""
    return {
        "row": name,
        "who": who,
        "seconds": taken * scale,
        "measured_seconds": taken,
        "scale": scale,
        "temp_bytes": temp_bytes,
    }


def jacobian_rows(config, length, directions, chunk):
    """Yield the block norms of one layer's Jacobian, ours and the peers'."""
    one = dataclasses.replace(config, num_layers=1)
    model = jmamba.MambaLM(one, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (length, config.d_model))
    f = layer_span(model, 0, 1)
    name = f"all blocks of a layer, l {length}"
    ours = jax_program(jacobian_norms, f, x)
    peer, pairs = transformers_layer(model.layer(0)), x.size
    backward = max(1, directions // 8)
    if peer is not None:
        pushed, taken = _push(peer, x, directions, chunk)
        units = jnp.eye(directions, x.size, dtype=x.dtype).reshape(-1, *x.shape)
        theirs = jax.vmap(lambda v: jax.jvp(f, (x,), (v,))[1])(units)
        error = np.max(np.abs(pushed - theirs)) / np.max(np.abs(pushed))
        Console(stderr=True).print(f"[dim]same derivatives to {error:.1e}[/dim]")
        yield row(name, "torch jacfwd (scaled)", taken, scale=pairs / directions)
    taken = seconds(ours)  # between the peers: a drift of the machine meets all
    yield row(name, "jmamba jacobian_norms", taken, temp_bytes=ours.temp_bytes)
    if peer is not None:
        taken = _pull(peer, x, backward, chunk)
        yield row(name, "torch jacrev (scaled)", taken, scale=pairs / backward)


def _push(layer, x, count, chunk):
    """Return the first `count` columns of the Jacobian by jacfwd, and the time.

    Its jacfwd has no chunk_size: all columns at once would not fit, so that it is asked
    for a part after another.
    """
    import torch

    start = torch.tensor(np.asarray(x))

    def moved(part, at):
        end = start[0, at + len(part) :]
        first = torch.cat([start[0, :at], part, end])
        return layer(torch.cat([first[None], start[1:]])[None])[0]

    with torch.no_grad():
        run = torch.func.jacfwd(moved)
        run(start[0, :chunk], 0)  # to warm up
        began = time.perf_counter()
        columns = [run(start[0, i : i + chunk], i) for i in range(0, count, chunk)]
        taken = time.perf_counter() - began
    return np.moveaxis(torch.cat(columns, -1).numpy(), -1, 0), taken


def _pull(layer, x, count, chunk):
    """Return the time of the last `count` rows of the Jacobian by jacrev."""
    import torch

    start = torch.tensor(np.asarray(x))
    run = torch.func.jacrev(lambda x: layer(x[None])[0, -1, -count:], chunk_size=chunk)
    run(start)  # to warm up
    return seconds(lambda: run(start))


def depth_rows(config, length):
    """Yield eight exponents over the depth of the whole model."""
    model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
    x = 0.02 * jax.random.normal(jax.random.key(0), (length, config.d_model))
    run = jax_program(lambda s, x: depth_exponents(s, x, 8), layer_stack(model), x)
    name = f"8 exponents over depth, l {length}"
    yield row(name, "jmamba", seconds(run), temp_bytes=run.temp_bytes)


def contraction_rows(config, length):
    """Yield the logarithmic norms of all layers and tokens."""
    model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
    draw = np.random.default_rng(0).integers(0, config.vocab_size, (1, length))
    x = jmamba.trace(model, jnp.asarray(draw)).residual_in[:, 0]
    graphdef, state = nnx.split(model)
    run = jax_program(lambda s, x: contraction_map(nnx.merge(graphdef, s), x), state, x)
    name = f"contraction map of all layers, l {length}"
    yield row(name, "jmamba", seconds(run), temp_bytes=run.temp_bytes)


def show(results):
    """Print seconds, how many times slower than ours, and memory."""
    ours = {r["row"]: r["seconds"] for r in results if r["who"].startswith("jmamba")}
    table = Table("what", "who", "seconds", "measured", "/ jmamba", "temp MB")
    for r in results:
        ratio = f"{r['seconds'] / ours[r['row']]:.1f}x" if r["row"] in ours else "-"
        mega = "-" if r["temp_bytes"] is None else f"{r['temp_bytes'] / 1e6:.0f}"
        cells = (f"{r['seconds']:,.1f}", f"{r['measured_seconds']:.1f}", ratio, mega)
        table.add_row(r["row"], r["who"], *cells)
    Console(width=120).print(table)


def main():
    """Parse options, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = ["jacobian", "depth", "contraction"]
    parser.add_argument("--what", nargs="+", default=what, choices=what)
    parser.add_argument("--model", default="mamba-130m", help="a named configuration")
    parser.add_argument("--length", type=int, default=128, help="of the Jacobian")
    parser.add_argument("--depth-length", type=int, default=256, help="of the others")
    parser.add_argument(
        "--directions", type=int, default=64, help="of the peers, a multiple of --chunk"
    )
    parser.add_argument(
        "--chunk",
        type=int,
        default=8,
        help="directions of the peers in flight together",
    )
    parser.add_argument("--json", help="file to write the numbers to")
    options = parser.parse_args()
    config = jmamba.MambaConfig.named(options.model)
    results = []
    if "jacobian" in options.what:
        rows = jacobian_rows(config, options.length, options.directions, options.chunk)
        results += rows
    if "depth" in options.what:
        results += depth_rows(config, options.depth_length)
    if "contraction" in options.what:
        results += contraction_rows(config, options.depth_length)
    show(results)
    machine = {
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "device": str(jax.devices()[0]),
        "versions": versions("jmamba", "jax", "flax", "torch", "transformers"),
    }
    Console(width=120).print(machine)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": machine, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
