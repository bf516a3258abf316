"""Weights of a checkpoint: named as in their layout, fitted to a model, adapted."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jmamba.files.adapters import Adapter
from jmamba.files.errors import CheckpointError, compress
from jmamba.files.keys import ParameterPath, Slot
from jmamba.files.names import resolve_names
from jmamba.files.tensors import FLOATS, StoredTensor
from jmamba.files.validation import check_floats, check_keys
from jmamba.files.weight_files import Edit, Weights
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


def fit_weights(
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


def merge_adapter(
    weights: Weights,
    adapter: Adapter,
    architecture: Architecture,
    config: Any,
    layout: str,
    table: Mapping[str, Slot],
) -> Weights:
    """Return weights to which an adapter is added on the way into a model.

    Args:
      weights: of the base model, by the names of its layout.
      adapter: what is added.
      architecture: of the model.
      config: the model's.
      layout: that of the names.
      table: name -> slot of the model's tensors.

    Raises:
      CheckpointError: the adapter is of a model with other layers or sizes, or changes
        one of two matrices that are tied.
    """
    paths: list[ParameterPath] = [slot.path for slot in table.values()]
    rows = architecture.table(layout, paths)
    keys = [name for row in rows for name in (row.key, *row.aliases)]
    trained = [*adapter.changes, *adapter.replaced]
    names = resolve_names(
        trained, keys, architecture.base_prefix, str(adapter.folder)
    ).names
    key_of = {name: _key(names.get(name, name), rows, table) for name in trained}
    shapes = {name: change.shape for name, change in adapter.changes.items()}
    shapes |= {name: tensor.shape for name, tensor in adapter.replaced.items()}
    tied = _tied(architecture, config, table)
    _check_trained(adapter, key_of, shapes, table, tied)
    edits: dict[str, Edit] = {
        key_of[name]: change.add_to for name, change in adapter.changes.items()
    }
    edits |= {
        key_of[name]: lambda old, new=tensor: old._replace(read=new.read)
        for name, tensor in adapter.replaced.items()
    }
    return weights._replace(edits=edits)


def _key(name: str, rows: Any, table: Mapping[str, Slot]) -> str:
    """Return the name by which a tensor is stored that the adapter names otherwise."""
    for row in rows:
        if name in (row.key, *row.aliases):
            return next((n for n in (row.key, *row.aliases) if n in table), name)
    return name


def _tied(
    architecture: Architecture, config: Any, table: Mapping[str, Slot]
) -> set[str]:
    """Return the names of matrices that are used twice."""
    copies = architecture.copies(config)
    twice = set(copies.values())
    return {key for key, slot in table.items() if slot.path in twice} | set(copies)


def _check_trained(
    adapter: Adapter,
    key_of: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    table: Mapping[str, Slot],
    tied: set[str],
) -> None:
    """Raise unless an adapter fits the model."""
    both = [name for name, key in key_of.items() if key in tied]
    if both:
        raise CheckpointError(
            f"The adapter in {adapter.folder} changes {compress(both)}, which in its "
            "base model is both the embedding and the head. Merge it with PEFT, save "
            'the model with "tie_word_embeddings": false, and load that.'
        )
    unknown = [name for name, key in key_of.items() if key not in table]
    other = [
        f"{name} is {shapes[name]}, the model's {table[key].shape}"
        for name, key in key_of.items()
        if key in table and tuple(shapes[name]) != tuple(table[key].shape)
    ]
    lists = {
        "not part of the model": compress(unknown),
        "of another shape": compress(other, separator="; "),
    }
    wrong = "; ".join(f"{name}: {keys}" for name, keys in lists.items() if keys)
    if wrong:
        raise CheckpointError(
            f"The adapter in {adapter.folder} does not fit the base model. Tensors "
            f"{wrong}. Give the base that it was trained on."
        )
