"""Analysing many documents, in a run that can be resumed."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from jmamba.analysis.arrays import check_array_names, check_array_sizes, plan_arrays
from jmamba.analysis.documents import Documents, as_documents, check_documents
from jmamba.analysis.kinds import Analysis, AnalysisOptions, named_analyses
from jmamba.analysis.padding import blank_padding, read_batch, round_length
from jmamba.analysis.results import AnalysedDocuments, AnalysisFolder
from jmamba.files.untrusted import as_path
from jmamba.layers.model import LayeredModel
from jmamba.models.fingerprints import fingerprint_parameters
from jmamba.models.sharding import Sharding
from jmamba.requests import RESULT_BYTES
from jmamba.training.processes import gather_array
from jmamba.version import __version__

FORMAT = 1
"""Version of what the folder holds."""


class AnalysisReport(NamedTuple):
    """How far an analysis is.

    Attributes:
      done: documents that are finished.
      total: documents in all.
      resumed: how many of them an earlier run had finished.
    """

    done: int
    total: int
    resumed: int


def analyse(
    model: LayeredModel,
    documents: Documents | Sequence[Any],
    analyses: Sequence[str] | Mapping[str, Analysis],
    directory: str | Path,
    *,
    options: AnalysisOptions | None = None,
    batch: int = 1,
    length: int | None = None,
    sharding: Sharding | None = None,
    memory_limit: int = RESULT_BYTES,
    report: Callable[[AnalysisReport], None] = lambda report: None,
) -> AnalysedDocuments:
    """Measure each of many documents, and write what is found to disk as it is found.

    A batch of documents is a shard of each array, and is there as a whole or not at
    all: a run that was killed goes on with the first batch that is not finished. What
    one analysis finds of one batch is held at a time. Documents are padded on the
    right to one of few lengths, for each of which programs are compiled; the model is
    causal, so that padding changes nothing before it.

    Args:
      model: a language model. With `sharding` it is laid over its mesh.
      documents: tokens of each, or `Documents`.
      analyses: names of `ANALYSES`, or analyses by names of your own.
      directory: of the results; see `analysis.results`.
      options: of analyses that are named.
      batch: documents that are measured, and written, together.
      length: tokens of a document that are read at most; None for all.
      sharding: a mesh; every process calls this, and the first one writes.
      memory_limit: bytes that one array of a batch may take.
      report: called after each batch.

    Returns:
      What was found, on disk.

    Raises:
      ValueError: there is no such analysis, documents do not fit the model, an array
        would take more than the limit or the disk has, or the directory is of another
        analysis; the message lists the differences.

    Examples:
      >>> import tempfile
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=8, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> folder = tempfile.mkdtemp()
      >>> found = analyse(model, [list(b"hello"), list(b"hi")], ["rows"], folder)
      >>> found
      rows of 2 of 2 documents
      >>> found.document(1)["rows"].shape  # (layer, token)
      (2, 2)
    """
    if model.reads != "tokens":
        raise ValueError(
            f"analyse is of models that read tokens; this one reads {model.reads}."
        )
    if batch < 1:
        raise ValueError(f"batch={batch}: give at least 1.")
    named = isinstance(analyses, Mapping)
    chosen = dict(analyses) if named else named_analyses(list(analyses), options)
    directory = as_path(directory)
    documents = as_documents(documents).cut(length)
    fingerprint = check_documents(documents, model.config.vocab_size)
    if sharding is not None:
        sharding.check_batch(batch, 0)
        model = sharding.place_model(model)
    pad = partial(round_length, multiple=1 if sharding is None else sharding.sequence)
    place = partial(_place, sharding=sharding)
    arrays = plan_arrays(model, chosen, documents, batch, pad, place)
    check_array_sizes(arrays, documents, batch, memory_limit, directory)
    settings = {
        "format": FORMAT,
        "version": __version__,
        "model": {
            "kind": type(model).__name__,
            "config": dataclasses.asdict(model.config),
            "dtype": str(getattr(model, "dtype", "")),
            "parameters": fingerprint_parameters(model),
        },
        "documents": {"count": len(documents.lengths), "tokens": fingerprint},
        "length": length,
        "batch": batch,
        "analyses": {k: dict(one.settings) for k, one in chosen.items()},
    }
    names = {"documents": list(documents.names)} if documents.names else {}
    folder = AnalysisFolder(
        directory, settings, {"jmamba": settings | names}, arrays, batch
    )
    try:
        _measure_all(folder, model, documents, chosen, pad, place, report)
    finally:
        folder.close()
    return AnalysedDocuments(directory)


def _measure_all(folder, model, documents, chosen, pad, place, report) -> None:
    """Measure what is not finished, a batch at a time."""
    total, batch = len(documents.lengths), folder.batch
    resumed = int(folder.finished.sum())
    for start in range(0, total, batch):
        stop = min(start + batch, total)
        if folder.finished[start:stop].all():
            continue
        tokens, lengths = read_batch(documents, start, stop, batch, pad)
        folder.write("tokens", start, tokens[: stop - start, : lengths.max()])
        folder.write("length", start, lengths[: stop - start])
        for name, one in chosen.items():
            found = one.measure(model, *place(tokens, lengths))
            check_array_names(name, one, found)
            for array in one.axes:
                rows = gather_array(found[array])[: stop - start]
                rows = blank_padding(rows, one.axes[array], lengths[: stop - start])
                folder.write(array, start, rows)
        folder.finish(start, stop)
        report(AnalysisReport(int(folder.finished.sum()), total, resumed))


def _place(tokens, lengths, sharding: Sharding | None):
    if sharding is None:
        return jnp.asarray(tokens), jnp.asarray(lengths)
    here, rows = sharding.rows_here(len(tokens)), len(tokens)
    return sharding.place_batch((tokens[here], lengths[here]), rows=rows)
