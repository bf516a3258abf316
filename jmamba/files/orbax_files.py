"""Orbax's own files of parameters.

Orbax writes them, and TensorStore, on which it stands, reads them: one array after the
other, each into the parts its devices ask for. Orbax reads all at once in coroutines,
and those that a damaged file leaves behind complain at some later time.
"""

import logging
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import CoroutineType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jmamba.files.errors import CheckpointError, compress
from jmamba.files.folders import PARAMETERS
from jmamba.files.keys import ParameterPath, nest
from jmamba.files.untrusted import check_all_regular, reading

_UNFINISHED = "*.orbax-checkpoint-tmp*"
"""Folders that Orbax gives another name when all is in them."""

_FOLDER = "orbax"
"""In the paths of its files."""

_STILL = 0.05
"""Seconds without a new file after which writes have ended."""

_DRIVERS = {".zarray": "zarr", "zarr.json": "zarr3"}
"""Entry that describes an array -> how TensorStore calls its format."""


def is_orbax(folder: Path) -> bool:
    """Say whether a folder holds parameters that Orbax wrote."""
    return (folder / PARAMETERS).is_dir()


def write_parameters(
    parameters: Mapping[ParameterPath, jax.Array], folder: Path
) -> None:
    """Write parameters into a folder; sharded arrays are written as they lie."""
    import orbax.checkpoint as ocp

    silence_orbax()
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder.absolute() / PARAMETERS, nest(parameters))
            checkpointer.wait_until_finished()
    except BaseException:
        clear_unfinished(folder)
        raise


def clear_unfinished(folder: Path) -> None:
    """Remove what Orbax has begun to write in a folder and given up.

    When one write fails, others go on: it is waited until they have ended.
    """
    before = None
    while before != (now := sorted(folder.glob(f"{_UNFINISHED}/**/*"))):
        before = now
        time.sleep(_STILL)
    for path in folder.glob(_UNFINISHED):
        shutil.rmtree(path, ignore_errors=True)


def read_metadata(folder: Path) -> dict[ParameterPath, jax.ShapeDtypeStruct]:
    """Return shape and dtype of each parameter in a folder.

    Raises:
      CheckpointError: they are damaged.
    """
    with _reading(folder / PARAMETERS):
        stores = open_arrays(folder / PARAMETERS)
        odd = [name for name, store in stores.items() if not _is_floating(store)]
        if odd:
            raise CheckpointError(
                f"{folder / PARAMETERS} holds what is no floating array: "
                f"{compress(odd)}; convert it again."
            )
        return {
            tuple(name.split(".")): jax.ShapeDtypeStruct(
                store.shape, store.dtype.numpy_dtype
            )
            for name, store in stores.items()
        }


def read_parameters(
    folder: Path, wanted: Mapping[ParameterPath, jax.ShapeDtypeStruct]
) -> dict[ParameterPath, jax.Array]:
    """Return the parameters in a folder, with the dtypes and shardings wanted.

    Raises:
      CheckpointError: they are damaged, or not finite.
    """
    named = {".".join(path): leaf for path, leaf in wanted.items()}
    arrays = read_arrays(folder / PARAMETERS, named)
    finite = _are_finite(list(arrays.values()))
    bad = [name for name, good in zip(arrays, finite, strict=True) if not good]
    if bad:
        raise CheckpointError(
            f"The weights in {folder} are not finite: {compress(bad)}."
        )
    return dict(zip(wanted, arrays.values(), strict=True))


def read_arrays(
    folder: Path, wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """Return arrays of a folder that Orbax wrote.

    Beside the arrays themselves one part of one of them is held at a time.

    Args:
      folder: Orbax's own.
      wanted: name -> shape, dtype and sharding; names of nested ones are joined by
        points.

    Raises:
      CheckpointError: the folder is damaged, or an array is missing or of another
        shape.
    """
    with _reading(folder):
        stores = open_arrays(folder, wanted)
        return {name: _read(stores[name], leaf) for name, leaf in wanted.items()}


def open_arrays(folder: Path, wanted: Iterable[str] | None = None) -> dict[str, Any]:
    """Return the arrays of a folder that Orbax wrote, opened to be read.

    Args:
      folder: Orbax's own.
      wanted: their names; None for all there are.

    Returns:
      Name -> `tensorstore.TensorStore`.

    Raises:
      CheckpointError: one is missing, or the folder holds what cannot be read; others
        are those of TensorStore.
    """
    import tensorstore as ts

    check_all_regular(folder)
    base = {"driver": "file", "path": f"{folder.absolute()}/"}
    database = {"driver": "ocdbt", "base": base}
    entries = ts.KvStore.open(database).result().list().result()
    drivers = {}
    for entry in entries:
        name, _, last = entry.decode().rpartition("/")
        if last in _DRIVERS:
            drivers[name] = _DRIVERS[last]
    if not drivers:
        raise ValueError("it holds no arrays")
    names = drivers if wanted is None else list(wanted)
    missing = [name for name in names if name not in drivers]
    if missing:
        raise CheckpointError(f"{folder} lacks {compress(missing)}; convert it again.")
    futures = {
        name: ts.open(
            {"driver": drivers[name], "kvstore": database | {"path": f"{name}/"}},
            open=True,
            read=True,
        )
        for name in names
    }
    return {name: future.result() for name, future in futures.items()}


def _read(store: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Read what is wanted of an array, each device's part of it."""
    if store.shape != leaf.shape:
        raise CheckpointError(
            f"An array in {store.kvstore.path} is {store.shape}, needed is "
            f"{leaf.shape}; convert it again."
        )

    def read_part(index: tuple[slice, ...] | None) -> np.ndarray:
        part = np.asarray(store[index].read().result())
        return part.astype(leaf.dtype, copy=False)

    return jax.make_array_from_callback(leaf.shape, leaf.sharding, read_part)


@jax.jit  # one program for all, and sharded arrays stay where they are
def _are_finite(arrays: list[jax.Array]) -> list[jax.Array]:
    return [jnp.isfinite(array).all() for array in arrays]


def _is_floating(store: Any) -> bool:
    return jnp.issubdtype(store.dtype.numpy_dtype, jnp.floating)


def _reading(folder: Path) -> AbstractContextManager[None]:
    return reading(
        folder, "is no complete Orbax checkpoint", "convert or copy it again"
    )


def silence_orbax() -> None:
    """Let Orbax raise its errors and say no more of them, from now on.

    When it cannot write, its threads log the error with a traceback. Its coroutines
    that wait for other writes are left in a closed event loop: they complain when a
    write ends, or when Python throws them away. Other complaints are heard as before.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_of_others)  # which is added once
    if not getattr(sys.unraisablehook, "is_for_others", False):
        sys.unraisablehook = _hook_for_others(sys.unraisablehook)


def _is_of_others(record: logging.LogRecord) -> bool:
    """Say whether a record is no complaint of Orbax about what it raises."""
    if record.name == "absl":
        return record.levelno < logging.ERROR or _FOLDER not in record.pathname
    said = logging.Formatter().format(record)  # with the traceback, if there is one
    return not (said.startswith(("Task", "Future")) and _FOLDER in said)


def _hook_for_others(hook: Any) -> Any:
    def show(complaint: Any) -> None:
        source, error = complaint.object, complaint.exc_value
        if isinstance(source, CoroutineType):
            is_theirs = _FOLDER in source.cr_code.co_filename
        else:  # TensorStore calls a loop back without saying who
            is_theirs = source is None and "loop is closed" in str(error)
        if not is_theirs:
            hook(complaint)

    show.is_for_others = True  # type: ignore[attr-defined]
    return show
