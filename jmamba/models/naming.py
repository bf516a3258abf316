"""Weights of a checkpoint by the names that their layout has for them."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jmamba.files.errors import compress
from jmamba.files.keys import ParameterPath, Slot
from jmamba.files.names import resolve_names
from jmamba.files.tensors import FLOATS, StoredTensor
from jmamba.files.validation import check_floats, check_keys
from jmamba.files.weight_files import Weights
from jmamba.models.architecture import Architecture
from jmamba.models.skeleton import slots_of

_LOGGER = logging.getLogger("jmamba")


class Named(NamedTuple):
    """Weights by the names of a layout.

    Attributes:
      weights: the files, read by those names.
      stored: name -> tensor, of which only shape and dtype can be read.
      notes: in which ways the stored names are others, each a part of a sentence.
    """

    weights: Weights
    stored: dict[str, StoredTensor]
    notes: tuple[str, ...]


class Fitted(NamedTuple):
    """Where the tensors of a checkpoint go in a model, checked to fit.

    Attributes:
      table: name -> slot.
      copies: name -> name of a tensor that is stored a second time.
      notes: what is told of it, each a part of a sentence.
    """

    table: dict[str, Slot]
    copies: dict[str, str]
    notes: tuple[str, ...]


def name_weights(
    architecture: Architecture,
    layout: str,
    paths: Iterable[ParameterPath],
    weights: Weights,
    headers: Mapping[str, StoredTensor],
) -> Named:
    """Return weights by the names of a layout; what is none of it keeps its own.

    Args:
      architecture: of the model.
      layout: that of the names.
      paths: the model's parameters.
      weights: the files.
      headers: what is in them.

    Raises:
      CheckpointError: there are several models in them.
    """
    rows = architecture.table(layout, paths)
    keys = [name for row in rows for name in (row.key, *row.aliases)]
    where = str(weights.files[0].parent)
    found = resolve_names(headers, keys, architecture.base_prefix, where)
    names = {name: found.names.get(name, name) for name in headers}
    stored = {names[name]: tensor for name, tensor in headers.items()}
    notes = found.notes
    if weights.is_wrapped:
        notes = (f'the weights are under "{weights.part}"', *notes)
    return Named(weights._replace(names=names), stored, notes)


def fit(
    named: Named,
    architecture: Architecture,
    config: Any,
    layout: str,
    parameters: Mapping[ParameterPath, Any],
    *,
    where: str,
    says: str = "its config.json",
) -> Fitted:
    """Return where the tensors go in a model.

    Tensors of other dtypes than floats that no parameter is, such as counters, are left
    out.

    Args:
      named: the weights by the names of the layout.
      architecture: of the model.
      config: the model's.
      layout: that of the names.
      parameters: the model's, or their shapes and dtypes.
      where: what to call the checkpoint.
      says: what the needed shapes are from.

    Raises:
      CheckpointError: tensors are missing, left over, of another shape, or no floats.
    """
    table = slots_of(config, parameters, layout=layout, keys=named.stored)
    needed = {key: slot.shape for key, slot in table.items()}
    first = {slot.path: key for key, slot in table.items()}
    seconds = architecture.copies(config)
    copies = {
        key: first[path]
        for key, path in seconds.items()
        if key in named.stored and key != first[path]
    }
    check_floats(named.stored, needed, where)
    floats = {k: t.shape for k, t in named.stored.items() if t.dtype in FLOATS}
    check_keys(
        needed | {copy: needed[key] for copy, key in copies.items()},
        floats,
        where,
        says=says,
        explain=lambda found: architecture.explain(found, config),
    )
    notes = [f"{key} stands for what it is tied to" for key in seconds if key in table]
    others = [key for key in named.stored if key not in floats]
    if others:
        notes.append(f"left out, being no weights: {compress(others)}")
    return Fitted(table, copies, tuple(notes))


def tell(where: Path, notes: Iterable[str]) -> None:
    """Log in one line in which ways a checkpoint is not as usual, if it is not."""
    line = "; ".join(notes)
    if line:
        _LOGGER.warning("%s: %s.", where, line)
