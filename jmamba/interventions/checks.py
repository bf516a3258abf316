"""Edits that cannot be done, said before anything is."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import jax
import numpy as np
from jax.core import Tracer

from jmamba.interventions.edits import CUT, OPS, SETTING, VALUED, Edit
from jmamba.interventions.points import check_point, may_meet
from jmamba.layers.places import Place


def check_edits(
    edits: Sequence[Edit],
    places: Mapping[str, Place],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    outside: Sequence[str],
    num_layers: int,
    heads: int,
) -> None:
    """Raise unless all edits can be done and none undoes another.

    Args:
      edits: what is to be done.
      places: name -> place.
      shapes: name -> shape of a value there; of "y" or "forward.y" where a place is
        never made as a whole.
      outside: names of places outside of the layers.
      num_layers: of the model.
      heads: of the recurrences.

    Raises:
      ValueError: an op is unknown or not of this place, a layer, token, channel, head
        or state is out of range, a value has the wrong shape, or two edits contradict
        each other.
    """
    for edit in edits:
        place, shape = places[edit.point.name], shapes[edit.point.name]
        _check_op(edit, place)
        layers = 0 if place.name in outside else num_layers
        check_point(edit.point, place, shape, layers, heads)
        if edit.op == CUT:
            _check_pairs(edit, place, shape[1])
        else:
            _check_value(edit, place, shape, layers)
    for one, other in combinations(edits, 2):
        name = one.point.name
        both = name == other.point.name and {one.op, other.op} <= set(SETTING)
        sizes = {"layers": num_layers, "positions": shapes[name][1], "heads": heads}
        sizes["channels"] = (
            shapes[name][-1] if len(shapes[name]) == 2 else shapes[name][2]
        )
        if both and may_meet(one.point, other.point, sizes):
            raise ValueError(
                f"Two edits of {name!r} contradict each other: {one.op} and {other.op} "
                f"meet at {_where(one)} and {_where(other)}. Keep one of them, or give "
                "them layers, positions or channels that are apart."
            )


def _where(edit: Edit) -> str:
    chosen = {
        axis: np.asarray(choice).tolist()
        for axis, choice in vars(edit.point).items()
        if axis != "name" and choice is not None
    }
    return ", ".join(f"{axis}={value}" for axis, value in chosen.items()) or "all of it"


def _check_op(edit: Edit, place: Place) -> None:
    if place.axes and edit.op not in OPS:
        raise ValueError(
            f"op={edit.op!r} of {place.name!r}: give one of {', '.join(OPS)}."
        )
    if not place.axes and edit.op != CUT:
        raise ValueError(
            f"{place.name!r} is never made as a whole, so that {edit.op!r} cannot be "
            "done to it: give cut_attention(pairs), or edit 'delta', 'B' or 'C'."
        )
    if place.axes == "bldn" and edit.op == "mean":
        raise ValueError(
            f"{place.name!r} passes token by token, and has no mean over tokens yet: "
            f"give replace({place.name!r}, value)."
        )


def _check_pairs(edit: Edit, place: Place, length: int) -> None:
    pairs = edit.value
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(
            f"pairs have the shape {pairs.shape}; give (i, j) of each, (p, 2)."
        )
    if isinstance(pairs, Tracer):
        return
    pairs = np.asarray(pairs)
    i, j = pairs.T
    if pairs.size and (pairs.min() < 0 or pairs.max() >= length):
        raise ValueError(
            f"pairs={pairs.tolist()} name tokens out of range: give 0 to {length - 1}."
        )
    if np.any(i > j if place.is_mirrored else j > i):
        needed = "i <= j" if place.is_mirrored else "j <= i"
        raise ValueError(
            f"pairs={pairs.tolist()}: in {place.name!r} token i reads token j only "
            f"where {needed}; leave the others out."
        )
    if len(np.unique(pairs, axis=0)) < len(pairs):
        raise ValueError(f"pairs={pairs.tolist()} name a pair twice; give each once.")


def _check_value(edit: Edit, place: Place, shape, num_layers: int) -> None:
    if edit.op not in VALUED:
        return
    value, layers = edit.value, edit.point.layers
    if not isinstance(value, jax.Array | np.ndarray):
        raise ValueError(
            f"{edit.op} of {place.name!r} needs a value, and has a "
            f"{type(value).__name__}; give an array or a number."
        )
    own, fits = value.shape, True
    if value.ndim == len(shape) + 1 and num_layers:
        own = value.shape[1:]
        fits = value.shape[0] in (
            num_layers,
            np.size(layers) if layers is not None else 0,
        )
    try:
        fits = fits and np.broadcast_shapes(own, shape) == tuple(shape)
    except ValueError:
        fits = False
    if not fits:
        axes = ", ".join(place.axes)
        more = (
            f", or {(num_layers, *shape)} with an axis of layers" if num_layers else ""
        )
        raise ValueError(
            f"{edit.op} of {place.name!r} has a value of shape {value.shape}; give "
            f"{tuple(shape)} ({axes}), what broadcasts to it{more}."
        )
