"""Arrays of rows in a Zarr group, written some rows at a time through TensorStore.

Such rows are a shard of each array: a file that is there as a whole or not at all.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jmamba.files.errors import FileError
from jmamba.files.exchange import write_file
from jmamba.files.untrusted import check_all_regular, first_line

GROUP = "zarr.json"
"""File that says what a group, or an array, is; Zarr, version 3."""

CHUNK_NUMBERS = 2**16
"""Numbers of a chunk, the least that is read, at most: 256 KiB of float32."""

_LOCKS = "*.__lock"
"""What TensorStore writes a file to before it takes its name."""


class RowArray(NamedTuple):
    """An array to be written, whose first axis are its rows.

    Attributes:
      shape: rows first.
      dtype: of its numbers; what is not written is NaN, or -1 of whole numbers, or 0 of
        those without a sign.
      axes: a name for each axis.
      attributes: what else is said of it, as JSON has it.
      cut: axes that chunks may cut; of rows and `single` axes a chunk has one.
      single: axes of which a chunk has one entry.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    axes: tuple[str, ...]
    attributes: Mapping[str, Any]
    cut: tuple[str, ...] = ()
    single: tuple[str, ...] = ()

    @property
    def fill(self) -> Any:
        """What stands where nothing was written."""
        return {"f": math.nan, "u": 0}.get(self.dtype.kind, -1)


def create_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    """Make a folder a Zarr group."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    write_file(folder / GROUP, json.dumps(about, indent=1) + "\n")


def open_rows(folder: Path, name: str, array: RowArray, shard_rows: int) -> Any:
    """Return an array of a group, made if need be, as a `tensorstore.TensorStore`.

    Args:
      folder: of the group.
      name: of the array.
      array: what it is to be.
      shard_rows: rows of a shard.

    Raises:
      FileError: it is there and another one, or damaged.

    Examples:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> array = RowArray((4, 3), np.dtype("float32"), ("document", "token"), {})
      >>> store = open_rows(folder, "rows", array, shard_rows=2)
      >>> write_rows(store, 2, np.ones((2, 3), np.float32))
      >>> np.asarray(store[:, 0]).tolist()
      [nan, nan, 1.0, 1.0]
    """
    import tensorstore as ts

    chunk = _chunk(array)
    shard = [-(-size // part) * part for size, part in zip(array.shape, chunk)]  # noqa: B905
    metadata = {
        "shape": list(array.shape),
        "data_type": array.dtype.name,
        "fill_value": "NaN" if array.dtype.kind == "f" else array.fill,
        "dimension_names": list(array.axes),
        "attributes": dict(array.attributes),
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [shard_rows, *shard[1:]]},
        },
        "codecs": [_sharding(chunk)],
    }
    spec = {"driver": "zarr3", "kvstore": _store(folder / name), "metadata": metadata}
    try:
        return ts.open(spec, open=True, create=True).result()
    except (ValueError, OSError) as error:
        raise FileError(
            f"{folder / name} is another array, or damaged ({first_line(error)}); name "
            "a new folder."
        ) from error


def read_rows(folder: Path) -> dict[str, Any]:
    """Return the arrays of a group, opened to be read, by their names.

    Raises:
      FileError: there is no group, or an array is damaged.
    """
    import tensorstore as ts

    if not (folder / GROUP).is_file():
        raise FileError(f"{folder} is no Zarr group: it has no {GROUP}.")
    check_all_regular(folder)
    names = sorted(file.parent.name for file in folder.glob(f"*/{GROUP}"))
    try:
        return {
            name: ts.open(
                {"driver": "zarr3", "kvstore": _store(folder / name)}, read=True
            ).result()
            for name in names
        }
    except (ValueError, OSError) as error:
        raise FileError(
            f"An array in {folder} is damaged ({first_line(error)}); copy it again."
        ) from error


def write_rows(store: Any, start: int, rows: np.ndarray) -> None:
    """Write rows that are a shard; where `rows` is shorter, the rest stays unwritten.

    The shard is on disk when this returns.

    Args:
      store: of `open_rows`.
      start: the first row.
      rows: their values.
    """
    import tensorstore as ts

    number = start // store.chunk_layout.write_chunk.shape[0]
    if store.ndim == 1:  # what a killed writer left goes first: a file, or a folder
        store.kvstore.write(f"c/{number}", None).result()
    else:
        old = ts.KvStore.KeyRange(f"c/{number}/", f"c/{number}0")  # 0 comes after /
        store.kvstore.delete_range(old).result()
    there = tuple(slice(0, size) for size in rows.shape[1:])
    transaction = ts.Transaction()  # so that the shard is written once
    part = store.with_transaction(transaction)[
        (slice(start, start + len(rows)), *there)
    ]
    part.write(rows.astype(store.dtype.numpy_dtype, copy=False)).result()
    transaction.commit_sync()


def clear_locks(folder: Path) -> None:
    """Remove what a writer of a group left who was killed; nobody else may write."""
    for path in folder.rglob(_LOCKS):
        path.unlink(missing_ok=True)


def _chunk(array: RowArray) -> list[int]:
    """Return the shape of a chunk: whole axes, but for those that are cut."""
    sizes = dict(zip(array.axes, array.shape, strict=True))
    cut = [name for name in array.axes if name in array.cut]
    ones = {array.axes[0], *array.single}
    rest = math.prod(n for name, n in sizes.items() if name not in {*cut, *ones})
    room = max(1, CHUNK_NUMBERS // rest)
    most = 2 ** int(math.log2(room) / max(1, len(cut)))
    whole = {name: 2 ** math.ceil(math.log2(sizes[name])) for name in cut}
    return [
        1 if name in ones else min(most, whole[name]) if name in cut else sizes[name]
        for name in array.axes
    ]


def _sharding(chunk: Sequence[int]) -> dict[str, Any]:
    """Return the codec of a shard of compressed chunks, each with a checksum."""
    plain = {"name": "bytes", "configuration": {"endian": "little"}}
    zstd = {"name": "zstd", "configuration": {"level": 1}}
    check = {"name": "crc32c"}
    return {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": list(chunk),
            "codecs": [plain, zstd, check],
            "index_codecs": [plain, check],
            "index_location": "end",
        },
    }


def _store(folder: Path) -> dict[str, str]:
    return {"driver": "file", "path": f"{folder.absolute()}/"}
