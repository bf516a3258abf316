"""Time Mamba-2's recurrence beside transformers' and beside its matrix products alone.

    python benchmarks/ssd.py                       # at the shape of mamba2-130m
    python benchmarks/ssd.py --length 4096 --heads 80 --runs 5 --json out.json

Programs of a row are run in turn; medians are shown, and the ratio of medians and of
the fastest runs, which a busy machine disturbs least. The products are those that a
chunk needs, of the same shapes and in the same order, without decays and masks.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from peers import versions
from rich.console import Console
from rich.table import Table
from timing import interleave

from jmamba.ops import ssd
from jmamba_kernels.ssd.chunks import product
from jmamba_kernels.ssd.contract import SSD_CHUNK

NAMES = ("u", "delta", "A", "B", "C")


def draw_operands(options) -> list[np.ndarray]:
    """Return operands of one text."""
    draw = np.random.default_rng(0)
    length, heads, n = options.length, options.heads, options.states
    gates = (1, length, options.groups, n)
    return [
        draw.standard_normal((1, length, heads, options.width), np.float32),
        draw.uniform(1e-3, 0.1, (1, length, heads)).astype(np.float32),
        -draw.uniform(1, 16, heads).astype(np.float32),
        *(draw.standard_normal(gates, np.float32) for _ in range(2)),
    ]


def compiled(function, *args):
    """Return a program that runs a compiled function and waits for it."""
    run = jax.jit(function).lower(*args).compile()
    return lambda: jax.block_until_ready(run(*args))


def ours(arrays, *, backward: bool):
    """Return our recurrence, or it and its gradients."""
    arrays = [jnp.asarray(x) for x in arrays]
    if not backward:
        return compiled(lambda *x: ssd(*x).y, *arrays)
    weights = jnp.asarray(np.random.default_rng(1).standard_normal(arrays[0].shape))
    weights = weights.astype(jnp.float32)

    def loss(*x):
        return jnp.sum(weights * ssd(*x).y)

    return compiled(jax.value_and_grad(loss, tuple(range(5))), *arrays)


def products(arrays, *, backward: bool):
    """Return the products of matrices that a pass needs, chunk by chunk."""
    u, _, _, B, C = (jnp.asarray(x) for x in arrays)
    (_, length, heads, p), (_, _, g, n) = u.shape, B.shape
    count = length // SSD_CHUNK

    def cut(x):
        return x.reshape(1, count, SSD_CHUNK, g, -1, x.shape[-1]).swapaxes(0, 1)

    u, B, C = cut(u), cut(B)[:, :, :, :, 0], cut(C)[:, :, :, :, 0]
    h = jnp.zeros((1, g, n, heads // g, p))
    W = jnp.ones((1, g, heads // g, SSD_CHUNK, SSD_CHUNK))

    def forward(h, x):
        u, B, C = x
        scores = product("bign,bjgn->bgij", C, B)
        y = product("bgrij,bjgrp->bigrp", W + scores[:, :, None], u)
        y += product("bign,bgnrp->bigrp", C, h)
        return h + product("bjgn,bjgrp->bgnrp", B, u), (y, h)

    def reverse(G, x):
        u, B, C, y, h = x
        scores = product("bign,bjgn->bgij", B, C)
        d_u = product("bgrji,bigrp->bjgrp", W + scores[:, :, None], y)
        d_u += product("bjgn,bgnrp->bjgrp", B, G)
        d_u += product("bign,bgnrp->bigrp", C, h)
        P = product("bjgrp,bigrp->bgrji", u, y)
        pairs = product("bgrji,it->bgrjt", P, W[0, 0, 0])
        d_C = product("bgji,bjgn->bign", pairs[:, :, 0], B)
        d_C += product("bgnrp,bigrp->bign", h, y)
        d_B = product("bgji,bign->bjgn", pairs[:, :, 0], C)
        d_B += product("bgnrp,bjgrp->bjgn", G, u)
        return G + product("bign,bigrp->bgnrp", C, y), (d_u, pairs, d_C, d_B)

    def both(u, B, C):
        last, (y, states) = jax.lax.scan(forward, h, (u, B, C))
        if not backward:
            return last, y
        return jax.lax.scan(reverse, last, (u, B, C, y, states), reverse=True)

    return compiled(both, u, B, C)


def transformers_scan(arrays, *, backward: bool):
    """Return the recurrence of transformers' Mamba-2; None where it is not there."""
    try:
        import torch
        from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan
    except ImportError:
        return None
    tensors = [torch.tensor(x, requires_grad=backward) for x in arrays]

    def run():
        with torch.set_grad_enabled(backward):
            y = mamba2_chunk_scan(*tensors, chunk_size=256)
        if backward:
            torch.autograd.grad(y.sum(), tensors)

    return run


def measure(options):
    """Return a row of seconds for each pass."""
    arrays = draw_operands(options)
    rows = []
    for backward in (False, True):
        made = {"jmamba": ours, "products": products, "transformers": transformers_scan}
        programs = {k: make(arrays, backward=backward) for k, make in made.items()}
        programs = {k: v for k, v in programs.items() if v is not None}
        timings = interleave(programs, options.runs)
        name = "forward+backward" if backward else "forward"
        rows.append({"row": name} | {k: t._asdict() for k, t in timings.items()})
    return rows


def show(rows) -> Table:
    """Return the rows as a table."""
    names = "jmamba", "products", "transformers"
    table = Table("milliseconds (median)", *names, "ratio", "of the fastest")
    for row in rows:
        cells = [f"{row[k]['median'] * 1e3:,.1f}" if k in row else "-" for k in names]
        ratios = (
            f"{row['jmamba'][k] / row['products'][k]:.2f}"
            for k in ("median", "fastest")
        )
        table.add_row(row["row"], *cells, *ratios)
    return table


def main():
    """Parse options, measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--heads", type=int, default=24)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--states", type=int, default=128)
    parser.add_argument("--groups", type=int, default=1)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    rows = measure(options)
    Console(width=100).print(show(rows))
    if options.json:
        content = {
            "rows": rows,
            "versions": versions("jax", "jaxlib", "torch", "transformers"),
            "options": vars(options),
        }
        options.json.write_text(json.dumps(content, indent=2, default=str))


if __name__ == "__main__":
    main()
