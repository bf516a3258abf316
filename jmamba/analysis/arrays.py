"""What arrays an analysis will write, known before anything is computed."""

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jmamba.analysis.documents import Documents
from jmamba.analysis.kinds import TOKEN_AXES, Analysis
from jmamba.files.zarr_files import RowArray

OWN = ("tokens", "length", "finished")
"""Arrays that every analysis has."""


def plan_arrays(
    model: nnx.Module, chosen: Mapping[str, Analysis], documents: Documents, batch: int,
    pad: Callable[[int], int], place: Callable[..., Any],
) -> dict[str, RowArray]:  # fmt: skip
    """Return what arrays there will be, before anything is measured.

    Args:
      model: that is analysed.
      chosen: what is measured.
      documents: all there are.
      batch: documents that are measured together.
      pad: returns the length that one is padded to.
      place: puts tokens and lengths where they are to lie.

    Raises:
      ValueError: an analysis returns other arrays than it says, or two have one name.
    """
    longest = int(documents.lengths.max())
    count = len(documents.lengths)
    arrays = {
        "tokens": RowArray(
            (count, longest), np.dtype("uint32"), ("document", "token"),
            {"units": "token"}, cut=("token",),
        ),
        "length": RowArray(
            (count,), np.dtype("int32"), ("document",), {"units": "tokens"}
        ),
        "finished": RowArray(
            (count,), np.dtype("uint8"), ("document",), {"units": "1"}
        ),
    }  # fmt: skip
    for name, one in chosen.items():
        found, padded = _find_shapes(model, one, (batch, pad(longest)), pad(1), place)
        check_array_names(name, one, found)
        for array, axes in one.axes.items():
            if array in arrays:
                raise ValueError(f"Two analyses have an array {array!r}; rename one.")
            arrays[array] = _plan_array(
                name, array, axes, found[array], padded, documents,
                {"units": one.units.get(array, ""), "analysis": name},
            )  # fmt: skip
    return arrays


def _find_shapes(model, one: Analysis, shape, least: int, place):
    """Return what an analysis returns, without values, and the shape of its tokens.

    One that cannot be traced, as it computes with NumPy, is asked about the shortest
    texts that there can be.
    """
    graphdef, state = nnx.split(model)
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)

    def measure(state, tokens, lengths):
        return dict(one.measure(nnx.merge(graphdef, state), tokens, lengths))

    tokens, lengths = np.zeros(shape, np.int32), np.ones(shape[0], np.int32)
    try:
        return jax.eval_shape(measure, state, tokens, lengths), shape
    except jax.errors.JAXTypeError:
        few = tokens[:, :least]
        return one.measure(model, *place(few, lengths)), few.shape


def _plan_array(name, array, axes, found, padded, documents, attributes) -> RowArray:
    longest, count = int(documents.lengths.max()), len(documents.lengths)
    known = {"document": padded[0], **dict.fromkeys(TOKEN_AXES, padded[1])}
    is_odd = axes[0] != "document" or len(axes) != len(found.shape)
    if is_odd or any(
        known.get(axis, size) != size
        for axis, size in zip(axes, found.shape, strict=True)
    ):
        raise ValueError(
            f"{name} returns {array} of shape {found.shape} for tokens of shape "
            f"{padded}, and says its axes are {axes}: the first is to be document, "
            f"those named {', '.join(TOKEN_AXES)} as long as the tokens."
        )
    shape = [
        longest if axis in TOKEN_AXES else size
        for axis, size in zip(axes, found.shape, strict=True)
    ]
    whole = jnp.issubdtype(found.dtype, jnp.integer)
    return RowArray(
        (count, *shape[1:]),
        np.dtype("int32" if whole else "float32"),
        tuple(axes),
        attributes,
        cut=TOKEN_AXES,
        single=("layer",),
    )


def check_array_names(name: str, one: Analysis, found: Mapping[str, Any]) -> None:
    """Raise unless an analysis returned the arrays whose axes it names.

    Raises:
      ValueError: it did not.
    """
    if {*found} != {*one.axes}:
        raise ValueError(
            f"{name} returns {sorted(found)}, and its axes are of {sorted(one.axes)}; "
            "name the axes of each array."
        )


def check_array_sizes(
    arrays: Mapping[str, RowArray], documents: Documents, batch: int,
    memory_limit: int, directory: Path,
) -> None:  # fmt: skip
    """Raise if an array of a batch is too large, or all of them for the disk.

    Args:
      arrays: that will be written.
      documents: all there are.
      batch: documents that are measured together.
      memory_limit: bytes that one array of a batch may take.
      directory: where to; it need not be there.

    Raises:
      ValueError: one is; the message says how many bytes, and what to do.
    """
    lengths, total = documents.lengths.astype(float), 0.0
    for name, array in arrays.items():
        sizes = dict(zip(array.axes[1:], array.shape[1:], strict=True))
        inner = [size for axis, size in sizes.items() if axis not in TOKEN_AXES]
        power = len(sizes) - len(inner)
        each = math.prod(inner) * array.dtype.itemsize
        largest = batch * each * float(lengths.max()) ** power
        if largest > memory_limit:
            shape = " x ".join(map(str, (batch, *array.shape[1:])))
            raise ValueError(
                f"{name} of a batch would take {largest / 2**30:,.1f} GiB ({shape}), "
                f"over the limit of {memory_limit / 2**30:.1f} GiB. Take fewer layers, "
                "a smaller batch, documents cut to a length, or what grows slower: "
                "rows and lens are linear in a document's length, vector_norms holds "
                "no vectors; or raise memory_limit."
            )
        total += each * float((lengths**power).sum())
    place = directory.absolute()
    there = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if total > free:
        names = ", ".join(name for name in arrays if name not in OWN)
        raise ValueError(
            f"{names} of {len(lengths):,} documents take up to {total / 2**30:,.1f} "
            f"GiB, and {there} has {free / 2**30:,.1f} GiB left. Take fewer layers or "
            "documents, cut them to a length, or name a folder on another disk."
        )
