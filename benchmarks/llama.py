"""Measure jmamba beside llama.cpp, on the same weights through a GGUF file.

    python benchmarks/llama.py                     # mamba-130m's shape, random weights
    python benchmarks/llama.py --model FOLDER --dtypes f16 q8_0 --json out.json

llama.cpp comes with `pip install llama-cpp-python`, which compiles it for the machine.
Weights are written by `jmamba convert --format gguf`, and logits and greedy tokens are
compared before anything is timed. Programs run in turn, on as many threads each.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from model_rows import decode_program, prefill_program, random_language_model
from peers import installed
from records import write_record
from rich.console import Console
from rich.table import Table
from timing import interleave

import jmamba
from jmamba import LanguageModel
from jmamba.checkpoints import convert

DTYPES = {"f32": "float32", "f16": "bfloat16", "bf16": "bfloat16", "q8_0": "bfloat16"}
"""What llama.cpp stores -> what jmamba does beside it, the nearest that it has."""


class LlamaModel:
    """A GGUF file run by llama.cpp.

    Args:
      file: the file.
      threads: to run on.
      room: most tokens of a text.
    """

    def __init__(self, file: Path, *, threads: int, room: int = 4096):
        from llama_cpp import Llama  # pyright: ignore

        self._model = Llama(
            str(file),
            n_ctx=room,
            n_batch=room,
            n_ubatch=room,
            n_threads=threads,
            n_threads_batch=threads,
            logits_all=True,
            type_k=0,  # keys and values in float32, as ours
            type_v=0,
            verbose=False,
        )

    def logits(self, tokens: Any) -> np.ndarray:
        """Return the logits after each token of a text."""
        self._model.reset()
        self._model.eval([int(i) for i in tokens])
        return np.array(self._model.scores[: len(tokens)])

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return self._model.tokenize(text.encode(), add_bos=False, special=True)

    def prefill(self, tokens: Any) -> np.ndarray:
        """Return the logits after the last token of a text."""
        return self._last(tokens, is_new=True)

    def decode(self, tokens: Any, count: int) -> list[int]:
        """Return so many tokens that follow a text, the likeliest each time."""
        self._last(tokens, is_new=True)
        return self.go_on(count)

    def go_on(self, count: int) -> list[int]:
        """Return so many tokens that follow what was read or made last."""
        made = []
        for _ in range(count):
            made.append(int(np.argmax(self._newest)))
            self._last(made[-1:])
        return made

    def _last(self, tokens: Any, *, is_new: bool = False) -> np.ndarray:
        """Read tokens and return the logits after the last one, and only these."""
        from llama_cpp import llama_cpp as c  # pyright: ignore

        context = self._model._ctx.ctx
        if is_new:
            self._model.reset()
            self._place = 0
        count = len(tokens)
        batch = c.llama_batch_init(count, 0, 1)
        batch.n_tokens = count
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = int(token), self._place + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = i == count - 1
        if c.llama_decode(context, batch):
            raise RuntimeError("llama.cpp could not read the tokens.")
        c.llama_batch_free(batch)
        self._place += count
        size = self._model.n_vocab()
        pointer = c.llama_get_logits_ith(context, count - 1)
        self._newest = np.ctypeslib.as_array(pointer, shape=(size,))
        return self._newest


def compare(model: Any, llama: LlamaModel, *, length: int, count: int) -> dict:
    """Return how far logits are apart, and how many greedy tokens agree."""
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, model.config.vocab_size, length)
    ours = np.asarray(model(jnp.asarray(tokens[None], jnp.int32)).logits)[0]
    theirs = llama.logits(tokens)
    made = jmamba.generate(
        model, tokens[None], max_new_tokens=count, stop_tokens=()
    ).tokens[0]
    agree = np.asarray(made) == np.asarray(llama.decode(tokens, count))
    return {
        "worst": float(np.abs(ours - theirs).max() / np.abs(ours).max()),
        "same_prediction": float(np.mean(ours.argmax(1) == theirs.argmax(1))),
        "same_greedy": int(agree.argmin()) if not agree.all() else count,
        "greedy": count,
    }


def llama_programs(llama: LlamaModel, tokens: Any, count: int) -> dict:
    """Return llama.cpp's prefill, and its decoding from where a text ends."""
    llama.decode(tokens[:8], 1)
    return {
        "prefill": lambda: llama.prefill(tokens),
        "decode": lambda: llama.go_on(count),
    }


def measure(model: Any, dtypes: Sequence[str], options: Any) -> list[dict]:
    """Compare and time all dtypes; return a row for each program.

    Args:
      model: ours.
      dtypes: what llama.cpp stores.
      options: with `length`, `decode`, `runs`.
    """
    results, vocab = [], model.config.vocab_size
    tokens = np.random.default_rng(0).integers(0, vocab, (1, options.length))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model.save_pretrained(folder / "model")
        for dtype in dtypes:
            file = folder / f"{dtype}.gguf"
            convert(folder / "model", file, format="gguf", dtype=dtype)
            llama = LlamaModel(file, threads=os.cpu_count() or 1)
            same = LanguageModel.from_pretrained(file)
            found = compare(same, llama, length=64, count=options.decode)
            stored = LanguageModel.from_pretrained(file, dtype=DTYPES[dtype])
            ours = {
                "prefill": prefill_program(stored, tokens.astype(np.int32)),
                "decode": decode_program(stored, tokens[:, :8], options.decode),
            }
            theirs = llama_programs(llama, tokens[0], options.decode)
            for name in ours:
                pair = {"jmamba": ours[name], "llama.cpp": theirs[name]}
                timings = interleave(pair, options.runs)
                results.append(
                    {
                        "program": name,
                        "llama.cpp": dtype,
                        "jmamba": DTYPES[dtype],
                        **found,
                        "seconds": {k: t._asdict() for k, t in timings.items()},
                    }
                )
    return results


def measure_shape(name: str, dtypes: Sequence[str], options: Any) -> list[dict]:
    """Compare and time a model with random weights; see `measure`.

    Args:
      name: of a configuration.
      dtypes, options: as in `measure`.
    """
    kinds = jmamba.MambaConfig, jmamba.Mamba2Config
    config = kinds["mamba2" in name].named(name)
    return measure(random_language_model(config), dtypes, options)


def show(results: list[dict]) -> None:
    """Print medians in milliseconds, their ratio, and how far logits are apart."""
    table = Table(
        *("program", "llama.cpp in", "ms", "jmamba in", "ms", "llama.cpp / jmamba"),
        *("logits apart", "greedy tokens alike"),
    )
    for row in results:
        median = {name: t["median"] for name, t in row["seconds"].items()}
        table.add_row(
            row["program"],
            row["llama.cpp"],
            f"{median['llama.cpp'] * 1e3:,.0f}",
            row["jmamba"],
            f"{median['jmamba'] * 1e3:,.0f}",
            f"{median['llama.cpp'] / median['jmamba']:.2f}x",
            f"{row['worst']:.1e}",
            f"{row['same_greedy']} of {row['greedy']}",
        )
    Console(width=120).print(table)


def main() -> None:
    """Parse options, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mamba-130m", help="a shape, or a folder")
    parser.add_argument("--dtypes", nargs="+", default=["f32", "f16", "q8_0"])
    parser.add_argument("--length", type=int, default=512, help="tokens to prefill")
    parser.add_argument("--decode", type=int, default=32, help="tokens to decode")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", help="file to write the numbers to")
    options = parser.parse_args()
    if not installed("llama_cpp", "gguf"):
        parser.error("llama.cpp is missing: pip install llama-cpp-python gguf")
    if Path(options.model).is_dir():
        model = LanguageModel.from_pretrained(options.model)
        results = measure(model, options.dtypes, options)
    else:
        results = measure_shape(options.model, options.dtypes, options)
    show(results)
    write_record(options.json, results, "gguf", "llama-cpp-python")


if __name__ == "__main__":
    main()
