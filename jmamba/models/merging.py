"""Merging an adapter into the weights of its base model, as they are read."""

from collections.abc import Mapping
from typing import Any

from jmamba.files.adapters import Adapter
from jmamba.files.errors import CheckpointError, compress
from jmamba.files.keys import ParameterPath, Slot
from jmamba.files.names import resolve_names
from jmamba.files.weight_files import Edit, Weights
from jmamba.models.architecture import Architecture


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
