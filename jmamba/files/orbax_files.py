"""Orbax's own files of parameters."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jmamba.files.errors import CheckpointError, compress
from jmamba.files.folders import PARAMETERS
from jmamba.files.keys import ParameterPath, flatten, nest
from jmamba.files.untrusted import check_all_regular, reading


def is_orbax(folder: Path) -> bool:
    """Say whether a folder holds parameters that Orbax wrote."""
    return (folder / PARAMETERS).is_dir()


def write_parameters(
    parameters: Mapping[ParameterPath, jax.Array], folder: Path
) -> None:
    """Write parameters into a folder; sharded arrays are written as they lie."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute() / PARAMETERS, nest(parameters))
        checkpointer.wait_until_finished()


def read_metadata(folder: Path) -> dict[ParameterPath, Any]:
    """Return shape and dtype of each parameter in a folder.

    Raises:
      CheckpointError: they are damaged.
    """
    import orbax.checkpoint as ocp

    check_all_regular(folder / PARAMETERS)
    with _reading(folder), ocp.StandardCheckpointer() as checkpointer:
        metadata = checkpointer.metadata(folder.absolute() / PARAMETERS)
        leaves = flatten(metadata.item_metadata.tree)
        odd = [path for path, leaf in leaves.items() if not _is_array(leaf)]
        if odd or not leaves:
            raise CheckpointError(
                f"{folder / PARAMETERS} holds what is no floating array: "
                f"{compress(map('.'.join, odd)) or 'nothing'}; convert it again."
            )
        return leaves


def read_parameters(
    folder: Path, wanted: Mapping[ParameterPath, jax.ShapeDtypeStruct]
) -> dict[ParameterPath, jax.Array]:
    """Return the parameters in a folder, with the dtypes and shardings wanted.

    Raises:
      CheckpointError: they are damaged, or not finite.
    """
    import orbax.checkpoint as ocp

    with _reading(folder), ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(folder.absolute() / PARAMETERS, nest(wanted))
    arrays = flatten(tree)
    finite = _are_finite(list(arrays.values()))
    bad = [
        ".".join(path) for path, good in zip(arrays, finite, strict=True) if not good
    ]
    if bad:
        raise CheckpointError(
            f"The weights in {folder} are not finite: {compress(bad)}."
        )
    return arrays


@jax.jit  # one program for all, and sharded arrays stay where they are
def _are_finite(arrays: list[jax.Array]) -> list[jax.Array]:
    return [jnp.isfinite(array).all() for array in arrays]


def _is_array(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return (
        dtype is not None
        and isinstance(getattr(leaf, "shape", None), tuple)
        and jnp.issubdtype(dtype, jnp.floating)
    )


def _reading(folder: Path) -> AbstractContextManager[None]:
    return reading(
        folder / PARAMETERS,
        "is no complete Orbax checkpoint",
        "convert or copy it again",
    )
