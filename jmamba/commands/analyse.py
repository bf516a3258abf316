"""The command `jmamba analyse`: measure many documents, and write it to disk."""

from pathlib import Path
from typing import Annotated

import typer

from jmamba.commands.options import (
    LARGEST_SEED,
    Dtype,
    Model,
    Revision,
    load_text_model,
)
from jmamba.commands.processes import (
    Coordinator,
    Distributed,
    Process,
    Processes,
    is_first_process,
    join_processes,
)
from jmamba.commands.reading import parse_layers
from jmamba.commands.signals import resumable
from jmamba.commands.stages import stages
from jmamba.files.untrusted import as_path

GIB = 2**30


def analyse_command(
    documents: Annotated[
        list[Path],
        typer.Argument(
            help='Texts, plain or .gz, of .jsonl the "text" of each line; or what '
            "jmamba tokenize made.",
            parser=as_path,
            metavar="DOCUMENTS...",
        ),
    ],
    what: Annotated[
        str,
        typer.Option(
            help="rows, matrices, vectors, vector_norms, alti, jacobian, "
            "layer_jacobians, lens; several joined by commas."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="Folder of the results.", parser=as_path, metavar="PATH"),
    ],
    model: Model = None,
    revision: Revision = None,
    dtype: Dtype = None,
    mesh: Annotated[
        str | None,
        typer.Option(help="data=2,fsdp=4: data, fsdp, sequence, tensor."),
    ] = None,
    batch: Annotated[
        int, typer.Option(help="Documents at once, which are a shard.", min=1)
    ] = 1,
    length: Annotated[
        int | None, typer.Option(help="Tokens of a document at most.", min=1)
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Such as 3,6,-1; all if left out.")
    ] = None,
    reduction: Annotated[
        str, typer.Option(help="Of attention over channels: mean_abs, mean, ...")
    ] = "mean_abs",
    probes: Annotated[
        int, typer.Option(help="Directions of Jacobian norms; 0: all, exact.", min=0)
    ] = 8,
    seed: Annotated[
        int, typer.Option(help="Of the probes.", min=0, max=LARGEST_SEED)
    ] = 0,
    top: Annotated[int, typer.Option(help="Likeliest tokens of the lens.", min=1)] = 5,
    memory: Annotated[
        float, typer.Option(help="GiB that one array of a batch may take.", min=0)
    ] = 4.0,
    distributed: Distributed = False,
    coordinator: Coordinator = None,
    processes: Processes = None,
    process: Process = None,
) -> None:
    """Measure many documents: hidden attention, token vectors, Jacobians, lenses.

    OUT/results.zarr is a Zarr group of arrays (document, ...). Run again with the same
    options to go on after an interruption; other options are refused.
    """
    join_processes(distributed, coordinator, processes, process)
    import jax

    from jmamba.analysis import (
        AnalysisOptions,
        analyse,
        named_analyses,
        open_documents,
    )
    from jmamba.models.sharding import Sharding

    chosen = parse_layers(layers)
    options = AnalysisOptions(
        None if chosen is None else tuple(chosen), reduction, probes or None, seed, top
    )
    names = [name.strip() for name in what.split(",")]
    named_analyses(names, options)
    if mesh is None and jax.process_count() > 1:
        mesh = f"fsdp={len(jax.devices())}"
    sharding = None if mesh is None else Sharding.parse(mesh)
    with resumable(), stages() as show:
        show("loading the model", 0, 1)
        loaded, tokenizer, _ = load_text_model(
            model, revision, dtype, sharding=sharding
        )
        show("reading the documents", 0, 1)
        found = analyse(
            loaded,
            open_documents(documents, tokenizer),
            names,
            out,
            options=options,
            batch=batch,
            length=length,
            sharding=sharding,
            memory_limit=int(memory * GIB),
            report=lambda said: show("measuring", said.done, said.total),
        )
    if is_first_process():
        typer.echo(
            f"{found!r} in {out / 'results.zarr'}; in Python: "
            f"jmamba.analysis.AnalysedDocuments({str(out)!r}).document(0)"
        )
