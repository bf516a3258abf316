"""Measure jmamba beside transformers and mambapy, in one run on one machine.

    python benchmarks/compare.py                  # a few minutes on a CPU
    python benchmarks/compare.py op --runs 9      # the scan alone
    python benchmarks/compare.py model --model mamba2-130m --json out.json

Programs of a row are run in turn, so that a drift of the machine meets all of them;
medians are shown. Weights are random and float32, and of equal shapes. Gradients are
those of a weighted loss, prefill reads off the last token alone, as transformers does,
and decoding goes on from a prompt that is read already.
"""

import argparse

from model_rows import model_rows
from records import write_record
from rich.console import Console
from rich.table import Table
from scan_rows import op_rows
from timing import interleave

import jmamba

NAMES = ("jmamba", "torch token loop", "mambapy", "transformers")


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
    write_record(options.json, results, "torch", "transformers", "mambapy")


if __name__ == "__main__":
    main()
