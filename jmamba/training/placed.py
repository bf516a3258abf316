"""Training of a model on rows of a source, wherever both lie."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jmamba.models.sharding import Sharding
from jmamba.training.config import TrainConfig
from jmamba.training.loop import fit
from jmamba.training.reports import StepReport
from jmamba.training.sources import Source, draw_from


def fit_source(
    model: Any,
    loss: Callable[[Any, Any], jax.Array],
    source: Source,
    config: TrainConfig,
    *,
    sharding: Sharding | None = None,
    directory: str | Path | None = None,
    report: Callable[[StepReport], None] = lambda report: None,
    extend: bool = False,
    evaluate: Callable[[Any], float] | None = None,
    keep: Callable[[Any, float], None] = lambda model, found: None,
) -> Any:
    """Train a model with a `config` of its own on rows of a source; see `fit`.

    Args:
      model: where to start from; it stays as it is.
      loss: function of a model and a batch.
      source: of the rows.
      config: settings of the run.
      sharding: a mesh over which the model and its batches are laid; each process reads
        the rows of its own devices. None for one device.
      directory, report, extend, evaluate: as in `fit`.
      keep: called with each model that was evaluated, and what was found.

    Raises:
      ValueError: as in `fit`, or the mesh does not divide the model or the batch.
    """
    if sharding is not None:
        model = sharding.place_model(model)

    def find(model):
        assert evaluate is not None
        found = evaluate(model)
        keep(model, found)
        return found

    return fit(
        model,
        loss,
        draw_from(source, sharding),
        config,
        directory=directory,
        report=report,
        settings={
            "model": dataclasses.asdict(model.config),
            "dtype": str(model.dtype),
            **source.settings,
        },
        extend=extend,
        evaluate=None if evaluate is None else find,
    )
