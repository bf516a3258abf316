"""What a caller wants of a run: inputs and edits, checked before anything runs."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx

from jmamba.interventions.checks import check_edits
from jmamba.interventions.edits import Edit
from jmamba.interventions.names import locate_place
from jmamba.interventions.walking import keep_values
from jmamba.layers.model import LayeredModel
from jmamba.types import ArrayLike, Images, Tokens

Inputs = Tokens | Images | ArrayLike
Edits = Edit | Sequence[Edit]


class Intervention(NamedTuple):
    """A model, its inputs and checked edits, and what passes there.

    Attributes:
      graphdef: the model's structure.
      state: its parameters.
      inputs: as an array.
      edits: with the names of this package.
      places: name -> place.
      shapes: name -> shape and dtype of what passes in one layer.
      heads: of the recurrences.
      num_layers: of the model.
      outside: names of the places outside of the layers.
    """

    graphdef: Any
    state: Any
    inputs: Any
    edits: tuple[Edit, ...]
    places: dict[str, Any]
    shapes: dict[str, Any]
    heads: int
    num_layers: int
    outside: tuple[str, ...]


def open_intervention(
    model: LayeredModel, inputs: Inputs, edits: Edits
) -> Intervention:
    """Check inputs and edits, and give edits the names of this package.

    Raises:
      ValueError: inputs do not fit, or an edit cannot be done; see `check_edits`.
    """
    checked = model.check_inputs(inputs)
    edits = (edits,) if isinstance(edits, Edit) else tuple(edits)
    for edit in edits:
        if not isinstance(edit, Edit):
            raise TypeError(
                f"edits hold a {type(edit).__name__}; give what replace, zero, patch "
                "and the like return."
            )
    edits = tuple(_spell(model, edit) for edit in edits)
    places = {place.name: place for place in model.places}
    graphdef, state = nnx.split(model)
    names = tuple(name for name, place in places.items() if place.axes)
    _, like = keep_values.eval_shape(graphdef, state, checked, (), names, (0,), None)
    outside, count = (
        tuple(place.name for place in model.outside),
        model.config.num_layers,
    )
    shapes = {
        name: jax.ShapeDtypeStruct(x.shape if name in outside else x.shape[1:], x.dtype)
        for name, x in like.items()
    }
    steps = [x for name, x in shapes.items() if name.endswith("delta")]
    heads = steps[0].shape[2] if steps else 1  # of several kinds of layers none in all
    sizes = {name: x.shape for name, x in shapes.items()}
    for name, place in places.items():
        if not place.axes:  # cut pairs of it change y
            sizes[name] = sizes[name.replace("alpha", "y")]
    check_edits(
        edits,
        places,
        sizes,
        outside=outside,
        num_layers=count,
        heads=heads,
    )
    return Intervention(
        *(graphdef, state, checked, edits, places, shapes, heads, count, outside)
    )


def _spell(model: LayeredModel, edit: Edit) -> Edit:
    """Return an edit with this package's name, and with what its name says."""
    place, layer, token = locate_place(model, edit.point.name)
    said = {"layers": layer, "positions": token}
    said = {axis: number for axis, number in said.items() if number is not None}
    for axis in said:
        if getattr(edit.point, axis) is not None:
            raise ValueError(
                f"{edit.point.name!r} says which {axis}, and so does {axis}=; leave "
                "one of them out."
            )
    point = dataclasses.replace(edit.point, name=place.name, **said)
    return dataclasses.replace(edit, point=point)


def check_bytes(
    request: Intervention,
    names: Sequence[str],
    count: int,
    tokens: Sequence[int] | None,
    limit: int,
) -> None:
    """Raise if what is kept would take too much memory.

    Args:
      request: what is asked.
      names: of places.
      count: of layers.
      tokens: which; None for all.
      limit: bytes.

    Raises:
      ValueError: it would take more.
    """
    sizes = {}
    for name in names:
        x, axes = request.shapes[name], request.places[name].axes
        shape = list(x.shape)
        if tokens is not None and axes[1] == "l":
            shape[1] = len(tokens)
        sizes[name] = count * math.prod(shape) * x.dtype.itemsize
    if sum(sizes.values()) > limit:
        most = max(sizes, key=lambda name: sizes[name])
        shape = " x ".join(map(str, request.shapes[most].shape))
        raise ValueError(
            f"This would keep {_size(sum(sizes.values()))}, over the limit of "
            f"{_size(limit)}; {_size(sizes[most])} of it are {most!r} "
            f"({count} layers x {shape}). Give fewer names, layers=[...], "
            "positions=[...], or raise memory_limit."
        )


def _size(count: int) -> str:
    """Return bytes as text."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 / 10 else f"{count:,} bytes"
