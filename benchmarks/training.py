"""Time a step of training beside mambapy's, in one run on one machine.

    python benchmarks/training.py                     # some minutes on two cores
    python benchmarks/training.py --d-model 256 --layers 6 --batch 4 --length 320
    python benchmarks/training.py --rounds 9 --json out.json

Both train a Mamba of one shape in float32 by AdamW, gradients clipped to a norm of 1,
on rows of bytes: ours by the compiled step of `jmamba.training.fit`, theirs by autograd
and `torch.optim.AdamW` on `mambapy.mamba.Mamba` with an embedding, a norm, a tied head.
Steps take turns, each after an untimed one; the ratio is of medians, and its noise is
the range of the ratios of the rounds.
"""

import argparse
import json
import platform

import jax
import numpy as np
from flax import nnx
from peers import installed, versions
from timing import interleave_rounds

from jmamba import MambaConfig, MambaLM
from jmamba.training import TextBatch, make_optimizer, text_loss
from jmamba.training.step import StepProgram, train_step

VOCABULARY = 256


def our_step(sizes: dict[str, int], rows: np.ndarray):
    """Return a step of ours, which returns when it is done."""
    config = MambaConfig(
        vocab_size=VOCABULARY, d_model=sizes["d_model"], num_layers=sizes["layers"]
    )
    graphdef, parameters = nnx.split(MambaLM(config, rngs=nnx.Rngs(0)))
    step = StepProgram(graphdef, make_optimizer(clip=1.0), text_loss)
    held = {"state": step.start(parameters)}
    batch = jax.tree.map(jax.numpy.asarray, TextBatch(rows[:, :-1], rows[:, 1:]))

    def run() -> float:
        state, values = train_step(held["state"], batch, np.float32(1e-3), step=step)
        held["state"] = jax.block_until_ready(state)
        return float(values.loss)

    return run


def mambapy_step(sizes: dict[str, int], rows: np.ndarray):
    """Return a step of mambapy's model, or None where it is not installed."""
    if not installed("torch", "mambapy"):
        return None
    import torch
    from mambapy.mamba import Mamba, RMSNorm
    from mambapy.mamba import MambaConfig as TheirConfig

    torch.manual_seed(0)
    body = Mamba(TheirConfig(d_model=sizes["d_model"], n_layers=sizes["layers"]))
    embedding = torch.nn.Embedding(VOCABULARY, sizes["d_model"])
    torch.nn.init.normal_(embedding.weight, std=0.02)
    norm = RMSNorm(sizes["d_model"])
    parts = torch.nn.ModuleList([embedding, body, norm])
    optimizer = torch.optim.AdamW(
        parts.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1
    )
    tokens = torch.tensor(rows, dtype=torch.long)

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        logits = norm(body(embedding(tokens[:, :-1]))) @ embedding.weight.T
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, VOCABULARY), tokens[:, 1:].reshape(-1)
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return run


def compare(sizes: dict[str, int], rounds: int) -> dict:
    """Time both in turn, and return medians, their ratio and its range."""
    draw = np.random.default_rng(0)
    shape = sizes["batch"], sizes["length"] + 1
    rows = draw.integers(0, VOCABULARY, shape).astype(np.int32)
    programs = {"jmamba": our_step(sizes, rows), "mambapy": mambapy_step(sizes, rows)}
    there = {name: run for name, run in programs.items() if run is not None}
    seconds = interleave_rounds(there, rounds)
    tokens = sizes["batch"] * sizes["length"]
    found: dict = {
        name: {
            "seconds": float(np.median(times)),
            "tokens_per_second": tokens / float(np.median(times)),
            "range": [min(times), max(times)],
        }
        for name, times in seconds.items()
    }
    if len(there) == 2:
        ours, theirs = (np.asarray(seconds[name]) for name in programs)
        found["ratio"] = float(np.median(theirs) / np.median(ours))
        found["ratio_range"] = [float(x) for x in np.quantile(theirs / ours, [0, 1])]
    return found


def main() -> None:
    """Compare at the shape asked for, and print what came out."""
    parser = argparse.ArgumentParser(description="Time steps of training.")
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json")
    options = vars(parser.parse_args())
    rounds, file = options.pop("rounds"), options.pop("json")
    found = compare(options, rounds)
    found |= {"sizes": options, "rounds": rounds, "processor": platform.processor()}
    found["versions"] = versions("jax", "jaxlib", "torch", "mambapy")
    text = json.dumps(found, indent=1)
    print(text)
    if file:
        with open(file, "w") as out:
            out.write(text + "\n")


if __name__ == "__main__":
    main()
