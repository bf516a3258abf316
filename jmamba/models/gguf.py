"""GGUF files of models: read as transformers' layout would be, and written.

A file's metadata becomes what config.json says, its tensors those that transformers
names; what is behind that is the same for both.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jmamba.files.errors import CheckpointError, compress
from jmamba.files.gguf_files import open_gguf, read_entries, write_gguf
from jmamba.files.keys import Slot
from jmamba.files.saving import torch_tensors
from jmamba.files.tensors import StoredTensor
from jmamba.files.untrusted import reading
from jmamba.files.weight_files import Weights
from jmamba.models.architecture import Architecture, architecture_of, registered
from jmamba.models.gguf_dialect import GGUFDialect, Header, Pair
from jmamba.models.skeleton import parameters_of, slots_of

IDS = {
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}
SECOND_END = "tokenizer.ggml.eot_token_id"
OWN = {
    key: f"jmamba.{key}"
    for key in ("unpadded_vocab_size", "residual_in_fp32", "mixer_rms_eps")
}
"""Entries of config.json that llama.cpp has no name for, and does not ask."""


def read_gguf_settings(file: Path) -> dict[str, Any]:
    """Return what config.json would say of the model in a GGUF file.

    Raises:
      CheckpointError: the file cannot be read, or is of another architecture.
    """
    header = _read_header(file)
    dialect = _find_dialect(header, file)
    with reading(file, "is no complete GGUF file of its architecture"):
        raw = dialect.read(header)
        ids = {key: header.metadata.get(name) for key, name in IDS.items()}
        if SECOND_END in header.metadata:
            ids["eos_token_id"] = [ids["eos_token_id"], header.metadata[SECOND_END]]
    own = {key: header.metadata.get(name) for key, name in OWN.items()}
    return raw | ids | {key: value for key, value in own.items() if value is not None}


def _read_header(file: Path) -> Header:
    metadata = read_entries(file)
    with open_gguf(file) as tensors:
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return Header(str(metadata.get("general.architecture")), metadata, shapes)


def _find_dialect(header: Header, file: Path) -> GGUFDialect:
    known = [one.gguf for one in registered() if one.gguf is not None]
    with reading(file, "is no complete GGUF file of its architecture"):
        for dialect in known:
            if dialect.kind == header.kind and dialect.owns(header):
                return dialect
    kinds = dict.fromkeys(dialect.kind for dialect in known)
    raise CheckpointError(
        f"{file} holds a model of the architecture {header.kind!r}; of GGUF files "
        f"jmamba reads {', '.join(kinds)}."
    )


def find_gguf_weights(file: Path, architecture: Architecture, config: Any) -> Weights:
    """Return the tensors of a GGUF file under the names of transformers.

    Args:
      file: the file.
      architecture: of its model.
      config: of its model.
    """
    assert architecture.gguf is not None
    pairs = tuple(architecture.gguf.pairs(config))
    return Weights((file,), opener=partial(_open_as, pairs, config.num_layers))


@contextmanager
def _open_as(
    pairs: Sequence[Pair], num_layers: int, file: Path
) -> Iterator[dict[str, StoredTensor]]:
    with open_gguf(file) as stored:
        left, found = dict(stored), {}
        for key, names, pair in _placed(pairs, num_layers):
            if all(name in left for name in names):
                parts = [left.pop(name) for name in names]
                with reading(file, f"holds a {names[0]} of an impossible shape"):
                    found[key] = _joined(pair, parts)
        yield found | left


def _placed(
    pairs: Sequence[Pair], num_layers: int
) -> Iterator[tuple[str, tuple[str, ...], Pair]]:
    """Yield transformers' name, llama.cpp's, and the pair of each layer's tensors."""
    for pair in pairs:
        for layer in range(num_layers if "{}" in pair.key else 1):
            names = tuple(name.format(layer) for name in pair.names)
            yield pair.key.format(layer), names, pair


def _joined(pair: Pair, parts: Sequence[StoredTensor]) -> StoredTensor:
    """Return transformers' tensor of llama.cpp's."""
    if pair.read is Pair._field_defaults["read"]:
        return parts[0]

    def read(part: tuple[slice, ...] = ()) -> np.ndarray:
        return pair.read(*(one.read() for one in parts))[part]

    shape = pair.read(*(_without_values(one.shape) for one in parts)).shape
    return StoredTensor(shape, parts[0].dtype, read)


def _without_values(shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.zeros((), np.int8), shape)


def check_gguf(model: Any) -> GGUFDialect:
    """Return how llama.cpp keeps a model, or raise if it does not read it.

    Raises:
      CheckpointError: it does not; the message says why.
    """
    architecture = architecture_of(model.config)
    dialect, kind = architecture.gguf, type(model).__name__
    if dialect is None:
        raise CheckpointError(
            f"llama.cpp reads no {kind}; write it with --format hf or orbax."
        )
    assert architecture.refusal is not None
    refusal = architecture.refusal(model.config) or dialect.refusal(model.config)
    if refusal is not None:
        raise CheckpointError(
            f"llama.cpp would not compute this {kind}, which {refusal}, so no GGUF "
            "file was written. Write it with --format hf or orbax."
        )
    return dialect


def save_gguf(
    model: Any, file: Path, vocabulary: Mapping[str, Any], encoding: str
) -> None:
    """Write a model as llama.cpp reads it.

    Args:
      model: a language model.
      file: where to.
      vocabulary: metadata of the tokenizer; see `describe_vocabulary`.
      encoding: how matrices are stored.

    Raises:
      CheckpointError: llama.cpp does not read such a model.
    """
    dialect, config = check_gguf(model), model.config
    parameters = parameters_of(model)
    slots = slots_of(config, parameters)
    placed = [
        (key, names, pair)
        for key, names, pair in _placed(tuple(dialect.pairs(config)), config.num_layers)
        if key in slots
    ]
    nameless = {*slots} - {key for key, _, _ in placed}
    if nameless:
        raise CheckpointError(
            f"llama.cpp has no place for {compress(sorted(nameless))}, so no GGUF file "
            "was written."
        )
    shapes = {
        name: part.shape
        for key, names, pair in placed
        for name, part in _written(pair, names, _without_values(slots[key].shape))
    }
    entries = {f"{dialect.kind}.{k}": v for k, v in dialect.write(config).items()}
    metadata = _describe(config) | entries | dict(vocabulary)
    tensors = _tensors(parameters, slots, placed)
    write_gguf(file, dialect.kind, metadata, shapes, tensors, encoding)


def _describe(config: Any) -> dict[str, Any]:
    """Return the entries of a model that are none of its architecture."""
    found = {name: getattr(config, key) for key, name in IDS.items()}
    ends = config.end_tokens
    found[IDS["eos_token_id"]] = ends[0] if ends else None
    found[SECOND_END] = ends[1] if len(ends) > 1 else None
    found |= {name: getattr(config, key, None) for key, name in OWN.items()}
    return {key: value for key, value in found.items() if value is not None}


def _tensors(
    parameters: Mapping[Any, Any],
    slots: Mapping[str, Slot],
    placed: Sequence[tuple[str, tuple[str, ...], Pair]],
) -> Iterator[tuple[str, np.ndarray]]:
    keys = [key for key, _, _ in placed]
    for (_, names, pair), (_, value) in zip(
        placed, torch_tensors(parameters, slots, keys), strict=True
    ):
        yield from _written(pair, names, value)


def _written(
    pair: Pair, names: tuple[str, ...], value: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    return zip(names, pair.write(value), strict=True)
