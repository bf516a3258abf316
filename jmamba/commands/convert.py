"""The command that converts checkpoints: convert_weights.py and `jmamba convert`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
from rich.table import Table

from jmamba.checkpoints.conversion import Conversion, convert


class Format(StrEnum):
    """What can be written."""

    orbax = "orbax"
    hf = "hf"
    gguf = "gguf"


def convert_command(
    src: Annotated[
        str,
        typer.Argument(
            help="Checkpoint or adapter: a folder, a Hub id, a .gguf, or a Vim's .pth."
        ),
    ],
    dst: Annotated[str, typer.Argument(help="Folder to write, or a .gguf file.")],
    format: Annotated[
        Format,
        typer.Option(
            help="orbax for JAX, hf for safetensors named as in PyTorch, gguf for "
            "llama.cpp."
        ),
    ] = Format.orbax,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16 or float16, of gguf also q8_0; the source's if "
            "left out."
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit on the Hub.")
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Compare SHA256SUMS, and logits with transformers'."
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a checkpoint that is there.")
    ] = False,
    free: Annotated[
        bool,
        typer.Option("--free", help="Write definite gates out as ordinary weights."),
    ] = False,
    part: Annotated[
        str,
        typer.Option(help="Of a Vim's .pth: model, or model_ema, its moving average."),
    ] = "model",
    base: Annotated[
        str | None,
        typer.Option(help="Of a LoRA adapter: the model it is added to."),
    ] = None,
) -> None:
    """Convert a Mamba checkpoint: PyTorch or GGUF in; JAX, PyTorch or GGUF out."""
    with byte_bars() as show:
        summary = convert(
            src,
            dst,
            format=format.value,
            dtype=dtype,
            revision=revision,
            verify=verify,
            overwrite=overwrite,
            free=free,
            part=part,
            base=base,
            progress=show,
        )
    Console().print(summary_table(summary))


@contextmanager
def byte_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Give a function that draws progress, from its first call on.

    Not earlier, for a download draws the Hub client's own bars on the same lines.
    """
    bars = Progress(
        "{task.description}",
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    tasks = {}

    def show(what: str, done: int, total: int) -> None:
        if what not in tasks:
            bars.start()
            tasks[what] = bars.add_task(what)
        bars.update(tasks[what], completed=done, total=total)

    try:
        yield show
    finally:
        bars.stop()


def summary_table(found: Conversion) -> Table:
    """Return a conversion's summary as a table for the terminal."""
    table = Table(title="Converted", show_header=False)
    table.add_row("from", f"{found.source} ({found.layout})")
    table.add_row("to", f"{found.destination} ({found.format}, {found.dtype})")
    table.add_row("layers", f"{found.num_layers}")
    table.add_row("parameters", f"{found.num_parameters:,}")
    table.add_row("read", f"{found.source_bytes / 2**20:,.1f} MiB")
    table.add_row("written", f"{found.destination_bytes / 2**20:,.1f} MiB")
    table.add_row("time", f"{found.seconds:.1f} s")
    if found.num_checked:
        table.add_row("checksums", f"{found.num_checked} files are as SHA256SUMS says")
    check = found.verification
    if check is None and found.num_checked:
        table.add_row("logits", "not compared: transformers does not read the source")
    if check is not None:
        table.add_row(
            "logits",
            f"{check.error:.1e} from transformers' (relative to the largest), same "
            f"prediction at {check.agreement:.0%} of {check.num_tokens} tokens",
        )
    return table
