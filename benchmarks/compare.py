"""Measure jmamba beside transformers and mambapy, in one run on one machine.

    python benchmarks/compare.py                  # a few minutes on a CPU
    python benchmarks/compare.py op --runs 9      # the scan alone
    python benchmarks/compare.py model --model mamba2-130m --json out.json

Programs of a row are run in turn, so that a drift of the machine meets all of them;
medians are shown. Weights are random and float32, and of equal shapes.
"""

import argparse
import json
import platform
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from peers import mambapy_model, torch_scan, transformers_model, versions
from rich.console import Console
from rich.table import Table
from timing import interleave

import jmamba
from jmamba.models import architecture_of
from jmamba.ops import selective_scan

NAMES = ("jmamba", "torch token loop", "mambapy", "transformers")


def scan_operands(length, *, channels=1536, states=16):
    """Draw u, delta, A, B, C of one text."""
    draw = np.random.default_rng(0)

    def normal(*shape):
        return draw.standard_normal(shape, np.float32)

    return (
        normal(1, length, channels),
        draw.uniform(1e-3, 0.1, (1, length, channels)).astype(np.float32),
        -np.tile(np.arange(1, states + 1, dtype=np.float32), (channels, 1)),
        normal(1, length, states),
        normal(1, length, states),
    )


class Compiled(NamedTuple):
    """A program that runs a compiled function and waits for it."""

    run: Any
    args: tuple

    def __call__(self):
        return jax.block_until_ready(self.run(*self.args))

    @property
    def temp_bytes(self):
        return self.run.memory_analysis().temp_size_in_bytes


def jax_program(function, *args):
    """Compile a function for its arguments."""
    return Compiled(jax.jit(function).lower(*args).compile(), args)


def our_scan(arrays, *, backward):
    """Return our scan, or it and its gradients."""
    arrays = [jnp.asarray(x) for x in arrays]
    if not backward:
        return jax_program(lambda *x: selective_scan(*x).y, *arrays)
    total = lambda *x: jnp.sum(selective_scan(*x).y)  # noqa: E731
    return jax_program(jax.value_and_grad(total, tuple(range(5))), *arrays)


def op_rows(slow):
    """Yield (row, programs) of the scan."""
    arrays = scan_operands(1024)
    yield (
        "scan forward, l 1024",
        {
            "jmamba": our_scan(arrays, backward=False),
            "torch token loop": torch_scan(arrays, parallel=False, backward=False),
            "mambapy": torch_scan(arrays, parallel=True, backward=False),
        },
    )
    loop = torch_scan(arrays, parallel=False, backward=True) if slow else None
    yield (
        "scan forward+backward, l 1024",
        {
            "jmamba": our_scan(arrays, backward=True),
            "torch token loop": loop,
            "mambapy": torch_scan(arrays, parallel=True, backward=True),
        },
    )
    for length in (1, 7, 1134):
        arrays = scan_operands(length)
        for backward in (False, True):
            name = "forward+backward" if backward else "forward"
            yield (
                f"scan {name}, l {length}",
                {
                    "jmamba": our_scan(arrays, backward=backward),
                    "mambapy": torch_scan(arrays, parallel=True, backward=backward),
                },
            )


def model_rows(config, length, train_length, decode):
    """Yield (row, programs) of a language model of one shape."""
    model = architecture_of(config).model_class(config, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    hf, py = transformers_model(config), mambapy_model(config)
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, config.vocab_size, (1, length))
    short = tokens[:, :train_length]
    no_cache = partial(hf, use_cache=False) if hf else None
    hf_logits = (lambda t: hf(t, use_cache=False).logits) if hf else None
    forward = {
        "jmamba": jax_program(partial(_logits, graphdef), state, jnp.asarray(tokens)),
        "transformers": _torch_forward(no_cache, tokens),
        "mambapy": _torch_forward(py, tokens),
    }
    yield f"forward, l {length}", forward
    train = {
        "jmamba": jax_program(partial(_gradients, graphdef), state, jnp.asarray(short)),
        "transformers": _torch_train(hf, hf_logits, short),
        "mambapy": _torch_train(py, py, short),
    }
    yield f"forward+backward, l {train_length}", train
    prefill = {
        "jmamba": jax_program(partial(_prefill, graphdef), state, jnp.asarray(tokens)),
        "transformers": _hf_prefill(hf, tokens),
    }
    yield f"prefill, l {length}", prefill
    decoding = {
        "jmamba": _our_decode(graphdef, state, model, decode),
        "transformers": _hf_decode(hf, tokens[:, :8], decode),
        "mambapy": _py_decode(py, config, decode),
    }
    yield f"decode {decode} tokens", decoding


def _logits(graphdef, state, tokens):
    return nnx.merge(graphdef, state)(tokens).logits


def _gradients(graphdef, state, tokens):
    def loss(state):
        logits = nnx.merge(graphdef, state)(tokens[:, :-1]).logits
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        return losses.mean()

    return jax.value_and_grad(loss)(state)


def _prefill(graphdef, state, tokens):
    out = nnx.merge(graphdef, state)(tokens)
    return out.logits[:, -1], out.cache


def _our_decode(graphdef, state, model, count):
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


def _torch_forward(call, tokens):
    if call is None:
        return None
    import torch

    tokens = torch.tensor(tokens)

    def run():
        with torch.no_grad():
            return call(tokens)

    return run


def _torch_train(module, call, tokens):
    if module is None:
        return None
    import torch

    tokens = torch.tensor(tokens)

    def run():
        module.zero_grad()
        logits = call(tokens[:, :-1])
        torch.nn.functional.cross_entropy(logits[0], tokens[0, 1:]).backward()

    return run


def _hf_prefill(hf, tokens):
    if hf is None:
        return None
    return _torch_forward(partial(hf, use_cache=True, logits_to_keep=1), tokens)


def _hf_decode(hf, prompt, count):
    if hf is None:
        return None
    import torch

    with torch.no_grad():
        start = hf(torch.tensor(prompt), use_cache=True)

    def run():  # goes on from one cache: its values do not matter, its size is fixed
        with torch.no_grad():
            token, cache = torch.zeros((1, 1), dtype=torch.long), start.cache_params
            for _ in range(count):
                out = hf(token, cache_params=cache, use_cache=True)
                token, cache = out.logits[:, -1:].argmax(-1), out.cache_params

    return run


def _py_decode(py, config, count):
    if py is None:
        return None
    import torch

    def run():
        with torch.no_grad():
            window = torch.zeros(1, config.d_inner, config.d_conv - 1)
            caches = [(None, window) for _ in range(config.num_layers)]
            token = torch.zeros(1, dtype=torch.long)
            for _ in range(count):
                logits, caches = py.step(token, caches)
                token = logits.argmax(-1)

    return run


def measure(rows, runs):
    """Run all rows; return what a table and a JSON file hold."""
    results = []
    for name, programs in rows:
        present = {k: v for k, v in programs.items() if v is not None}
        timings = interleave(present, runs)
        temp = getattr(present["jmamba"], "temp_bytes", None)
        results.append({
            "row": name,
            "temp_bytes": temp,
            "seconds": {k: t._asdict() for k, t in timings.items()},
        })  # fmt: skip
        Console(stderr=True).print(f"[dim]{name} done[/dim]")
    return results


def show(results):
    """Print medians in milliseconds and how many times faster jmamba is."""
    table = Table("milliseconds (median)", *NAMES, "best peer / jmamba", "temp MB")
    for result in results:
        seconds = {k: t["median"] for k, t in result["seconds"].items()}
        peers = [v for k, v in seconds.items() if k != "jmamba"]
        ratio = f"{min(peers) / seconds['jmamba']:.1f}x" if peers else "-"
        temp = result["temp_bytes"]
        cells = [f"{seconds[k] * 1e3:,.1f}" if k in seconds else "-" for k in NAMES]
        mega = "-" if temp is None else f"{temp / 1e6:.0f}"
        table.add_row(result["row"], *cells, ratio, mega)
    Console(width=120).print(table)


def main():
    """Parse options, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", nargs="?", default="all", choices=["all", "op", "model"]
    )
    parser.add_argument("--model", default="mamba-130m", help="a named configuration")
    parser.add_argument("--length", type=int, default=512, help="forward and prefill")
    parser.add_argument("--train-length", type=int, default=128)
    parser.add_argument("--decode", type=int, default=32, help="tokens to decode")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--slow", action="store_true", help="torch loop's backward too")
    parser.add_argument("--json", help="file to write the numbers to")
    options = parser.parse_args()
    results = []
    if options.what in ("all", "op"):
        results += measure(op_rows(options.slow), options.runs)
    if options.what in ("all", "model"):
        kinds = jmamba.MambaConfig, jmamba.Mamba2Config
        config = kinds["mamba2" in options.model].named(options.model)
        rows = model_rows(config, options.length, options.train_length, options.decode)
        results += measure(rows, options.runs)
    show(results)
    machine = {
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "device": str(jax.devices()[0]),
        "versions": versions(
            "jmamba", "jax", "flax", "torch", "transformers", "mambapy"
        ),
    }
    Console(width=120).print(machine)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": machine, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
