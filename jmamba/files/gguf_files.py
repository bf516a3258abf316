"""GGUF files, which llama.cpp reads: their metadata and tensors, read and written.

They know no model: which name is which parameter, a `GGUFDialect` says.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jmamba.files.errors import CheckpointError, compress
from jmamba.files.tensors import StoredTensor
from jmamba.files.untrusted import check_regular, reading

MAGIC = b"GGUF"

ENCODINGS = {
    "f32": ("float32", 0),
    "f16": ("float16", 1),
    "q8_0": ("q8_0", 7),
    "bf16": ("bfloat16", 32),
}
"""How matrices are stored -> dtype, and llama.cpp's number of such a file."""

READABLE = tuple(name.upper() for name in ENCODINGS)
BLOCK = 32
"""Numbers of a row that share a scale in q8_0: a block is it in float16, and int8s."""

_NO_GGUF = "is cut short or no GGUF file"


def is_gguf(path: Path) -> bool:
    """Say whether a path is that of a GGUF file, by its first four bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def choose_encoding(dtype: str | None, stored: str = "float32") -> str:
    """Return how matrices are to be stored.

    Args:
      dtype: an encoding, or the dtype that it is of; None for that of the model.
      stored: dtype of the model's weights.

    Raises:
      ValueError: there is no such encoding.

    Examples:
      >>> choose_encoding("float16"), choose_encoding(None, "bfloat16")
      ('f16', 'bf16')
    """
    wanted = stored if dtype is None else str(dtype)
    for name, (dtype_name, _) in ENCODINGS.items():
        if wanted in (name, dtype_name):
            return name
    raise ValueError(
        f"dtype of a GGUF file must be {', '.join(ENCODINGS)}, but is {wanted!r}."
    )


def read_entries(file: Path) -> dict[str, Any]:
    """Return what a GGUF file says beside its tensors, but lists with all tokens.

    Raises:
      CheckpointError: the gguf package is missing, or the file cannot be read.
    """
    fields = _open(file).fields
    with reading(file, _NO_GGUF):
        return {key: _value(f) for key, f in fields.items() if not _is_listed(f)}


def read_list(file: Path, key: str) -> list[Any]:
    """Return a list of a GGUF file's metadata; [] if it has none of that name.

    Raises:
      CheckpointError: as `read_entries`.
    """
    field = _open(file).fields.get(key)
    with reading(file, _NO_GGUF):
        return [] if field is None else list(field.contents())


def _value(field: Any) -> Any:
    """Return what a field says; a float32 as the number that was rounded to it."""
    value = field.contents()
    is_float = [kind.name for kind in field.types] == ["FLOAT32"]
    return float(str(np.float32(value))) if is_float else value


def _is_listed(field: Any) -> bool:
    """Say whether a field is a list with an entry for each token."""
    return len(field.types) > 1 and field.name.startswith("tokenizer.")


@contextmanager
def open_gguf(file: Path) -> Iterator[dict[str, StoredTensor]]:
    """Open a GGUF file; tensors are mapped, and q8_0 becomes float32 when it is read.

    Raises:
      CheckpointError: the gguf package is missing, the file cannot be read, or tensors
        are quantised in another way.
    """
    tensors = _open(file).tensors
    with reading(file, _NO_GGUF):
        kinds = {tensor.name: tensor.tensor_type.name for tensor in tensors}
    others = sorted({kind for kind in kinds.values() if kind not in READABLE})
    if others:
        which = compress(name for name, kind in kinds.items() if kind in others)
        raise CheckpointError(
            f"{file} holds tensors in {', '.join(others)} ({which}), but jmamba reads "
            f"{', '.join(READABLE)}. Take the model in one of these, such as a file "
            "that ends in -f16.gguf, or the checkpoint that it was made of."
        )
    with reading(file, _NO_GGUF):
        found = {tensor.name: _stored(file, tensor) for tensor in tensors}
    yield found


def _stored(file: Path, tensor: Any) -> StoredTensor:
    kind = tensor.tensor_type.name
    shape = tuple(int(n) for n in reversed(tensor.shape))

    def read(part: tuple[slice, ...] = ()) -> np.ndarray:
        with reading(file, "is damaged"):
            return _decode(kind, tensor.data, shape)[part]

    return StoredTensor(shape, "F32" if kind == "Q8_0" else kind, read)


def _decode(kind: str, data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the values of a tensor."""
    if kind == "Q8_0":
        gguf = require_gguf("Reading q8_0")
        return gguf.dequantize(data, gguf.GGMLQuantizationType.Q8_0).reshape(shape)
    dtype = ml_dtypes.bfloat16 if kind == "BF16" else data.dtype
    return np.asarray(data).view(dtype).reshape(shape)


def _open(file: Path) -> Any:
    check_regular(file)
    return _parse(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=1)  # one file is asked several times, and parsing takes a second
def _parse(file: Path, changed: int) -> Any:
    gguf = require_gguf(f"Reading {file.name}")
    with reading(file, _NO_GGUF):
        return gguf.GGUFReader(file)


def write_gguf(
    file: Path,
    kind: str,
    metadata: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterable[tuple[str, np.ndarray]],
    encoding: str,
) -> None:
    """Write a GGUF file, one tensor at a time.

    What llama.cpp multiplies by is stored as the encoding says, the rest as float32;
    matrices whose rows are no multiple of 32 are f16 where the others are q8_0.

    Args:
      file: where to.
      kind: general.architecture.
      metadata: further entries; lists are of texts or of whole numbers.
      shapes: name -> shape.
      tensors: name and values, in the same order.
      encoding: of the matrices.

    Raises:
      CheckpointError: the gguf package is missing, or a value is too large.
    """
    gguf = require_gguf("Writing a GGUF file")
    writer = gguf.GGUFWriter(file, kind)
    writer.add_file_type(ENCODINGS[encoding][1])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in metadata.items():
        _add(writer, gguf.GGUFValueType, key, value)
    kinds = {name: _kind(gguf, encoding, name, shape) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        stored = gguf.quant_shape_to_byte_shape(shape, kinds[name])
        byte, size = np.dtype(np.uint8), int(np.prod(stored))
        writer.add_tensor_info(name, stored, byte, size, raw_dtype=kinds[name])
    with closing(writer):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, value in tensors:
            writer.write_tensor_data(_encode(gguf, name, value, kinds[name]))


def _add(writer: Any, types: Any, key: str, value: Any) -> None:
    """Add an entry of metadata; whole numbers are unsigned but in lists."""
    first = value[0] if isinstance(value, list) else value
    plain = {
        bool: types.BOOL,
        int: types.INT32 if isinstance(value, list) else types.UINT32,
        float: types.FLOAT32,
        str: types.STRING,
    }[type(first)]
    if isinstance(value, list):
        writer.add_key_value(key, value, types.ARRAY, sub_type=plain)
    else:
        writer.add_key_value(key, value, plain)


def _kind(gguf: Any, encoding: str, name: str, shape: tuple[int, ...]) -> Any:
    """Return the type of a tensor, by the rules of llama.cpp's own converter."""
    is_matrix = len(shape) == 2 and name.endswith(".weight")
    if not is_matrix or "norm" in name or "conv1d" in name:
        encoding = "f32"
    elif encoding == "q8_0" and shape[-1] % BLOCK:
        encoding = "f16"
    return gguf.GGMLQuantizationType[encoding.upper()]


def _encode(gguf: Any, name: str, value: np.ndarray, kind: Any) -> np.ndarray:
    value = np.ascontiguousarray(value, np.float32)
    with np.errstate(over="ignore"):
        encoded = gguf.quantize(value, kind)
    if kind.name == "F16":
        told = encoded
    elif kind.name == "Q8_0":
        told = encoded.view(np.float16)[..., :: 1 + BLOCK // 2]  # the scales
    else:
        told = value
    if not np.isfinite(told).all():
        raise CheckpointError(
            f"{name} holds values that are not finite in {kind.name}; write the file "
            "in bf16 or f32."
        )
    return encoded


def require_gguf(purpose: str) -> Any:
    """Return the gguf package.

    Raises:
      CheckpointError: it is not installed.
    """
    try:
        import gguf  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise CheckpointError(
            f"{purpose} needs the package gguf, which is not installed: type "
            'pip install "jmamba[gguf]".'
        ) from error
    return gguf
