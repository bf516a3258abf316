"""Count and time decoding with guesses, in turn with decoding without.

    python benchmarks/lookup.py                       # the embedded model
    python benchmarks/lookup.py --model FOLDER --file text.txt --guesses 4 8

Tokens must be the same. A pass is one run of the model: without guesses there is one
for each token.
"""

import argparse
from pathlib import Path

import numpy as np
from flax import nnx
from records import write_record
from rich.console import Console
from rich.table import Table
from timing import interleave

import jmamba
from jmamba.checkpoints import load_tokenizer
from jmamba.embedded import load_embedded
from jmamba.generation import Lookup, Sampling
from jmamba.generation.decoding import _generate
from jmamba.generation.request import make_request

TEXTS = {
    "a table": "".join(
        f"|-\n| {year} || [[United States]] || {wins}\n"
        for year, wins in ((1991, 12), (1992, 14), (1993, 15))
    ),
    "prose": "Alexander the Great was a king of Macedon. After the death of Alexander "
    "the Great his empire was",
}


def count_passes(model, tokens, count, lookup):
    """Return how often the model is run."""
    request = make_request(
        model, tokens, inputs_embeds=None, attention_mask=None, max_new_tokens=count,
        sampling=Sampling(), stop_tokens=(), key=None, pad_token=0, cache=None,
        is_heard=False,
    )  # fmt: skip
    *_, passes = _generate(
        *nnx.split(model), request, max_new_tokens=count, lookup=lookup
    )
    return int(passes)


def measure(model, tokens, count, guesses, runs):
    """Return tokens a pass and tokens a second, without and with guesses.

    Raises:
      RuntimeError: guesses changed what came.
    """
    ways = {"plain": None} | {f"{k} guesses": Lookup(num_tokens=k) for k in guesses}
    made = {}

    def program(name, lookup):
        def run():
            new = jmamba.generate(
                model, tokens, max_new_tokens=count, stop_tokens=(), lookup=lookup
            )
            made[name] = np.asarray(new.tokens)

        return run

    programs = {name: program(name, lookup) for name, lookup in ways.items()}
    timings = interleave(programs, runs)
    if any((found != made["plain"]).any() for found in made.values()):
        raise RuntimeError("guesses changed the tokens")
    return {
        name: {
            "tokens_a_pass": count / count_passes(model, tokens, count, lookup),
            "tokens_a_second": count / timings[name].median,
        }
        for name, lookup in ways.items()
    }


def main():
    """Parse options, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a folder; the embedded model if left out")
    parser.add_argument("--file", help="a text to continue")
    parser.add_argument("--tokens", type=int, default=128, help="new ones")
    parser.add_argument("--guesses", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", help="file to write the numbers to")
    options = parser.parse_args()
    if options.model is None:
        model, tokenizer = load_embedded()
    else:
        model = jmamba.LanguageModel.from_pretrained(options.model)
        tokenizer = load_tokenizer(options.model)
    texts = TEXTS
    if options.file is not None:
        texts = {options.file: Path(options.file).read_text(encoding="utf-8")}
    results, table = {}, Table("text", "way", "tokens a pass", "tokens a second", "x")
    for name, text in texts.items():
        tokens = np.array([tokenizer.encode(text)])
        sizes = options.tokens, options.guesses, options.runs
        results[name] = found = measure(model, tokens, *sizes)
        plain = found["plain"]["tokens_a_second"]
        for way, numbers in found.items():
            speed = numbers["tokens_a_second"]
            row = f"{numbers['tokens_a_pass']:.2f}", f"{speed:,.0f}"
            table.add_row(name, way, *row, f"{speed / plain:.2f}")
    Console(width=100).print(table)
    write_record(options.json, results)


if __name__ == "__main__":
    main()
