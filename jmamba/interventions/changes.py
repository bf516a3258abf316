"""Edits as the walk over layers takes them: one change for each place."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jmamba.interventions.edits import CUT, OPS, VALUED, Edit
from jmamba.interventions.knockout import pair_outputs
from jmamba.interventions.points import mask_of, members
from jmamba.layers.places import Place


def make_changes(
    edits: Sequence[Edit],
    places: Mapping[str, Place],
    *,
    num_layers: int,
    length: int,
    heads: int,
) -> dict[str, Callable[..., Any]]:
    """Return place -> change(value, layer), all edits of a place in their order.

    Args:
      edits: what is to be done.
      places: name -> place.
      num_layers: of the model.
      length: of the residual stream.
      heads: of the recurrences.
    """
    by_name: dict[str, list] = {}
    for edit in edits:
        place = places[edit.point.name]
        make = _cut if edit.op == CUT else _apply
        change = make(edit, place, num_layers, length, heads)
        by_name.setdefault(place.name, []).append(change)
    return {
        name: _add_up(changes) if not places[name].axes else _one_by_one(changes)
        for name, changes in by_name.items()
    }


def _one_by_one(changes):
    def change(value, layer, *token):
        for one in changes:
            value = one(value, layer, *token)
        return value

    return change


def _add_up(changes):
    return lambda value, layer: sum(one(value, layer) for one in changes)


def _apply(edit: Edit, place: Place, num_layers, length, heads):
    """Return the change of an edit: the op where its point is, the value elsewhere.

    Layers that are not edited branch off, so that they cost nothing, and so that the
    value is made once: what is fused with it has no say in its last bit.
    """

    def change(value, layer, *token):
        shape = value.shape
        if token:  # of one token: b d n for b l d n
            shape = (shape[0], length, *shape[1:])

        def do(value):
            mask: Any = mask_of(edit.point, place, shape, heads)
            given: Any = _given(edit, layer, num_layers, len(place.axes))
            if token:
                mask, given = (_at_token(x, token[0], shape) for x in (mask, given))
            if edit.op in VALUED:
                given = given.astype(value.dtype)
            return jnp.where(mask, OPS[edit.op](value, given), value)

        is_here = _is_here(edit, layer, num_layers)
        return jax.lax.cond(is_here, do, lambda value: value, value)

    return change


def _is_here(edit: Edit, layer, num_layers):
    if layer is None:  # outside of the layers
        return jnp.asarray(edit.is_on)
    return members(edit.point.layers, num_layers)[layer] & edit.is_on


def _given(edit: Edit, layer, num_layers: int, rank: int) -> Any:
    """Return an edit's value for one layer."""
    value, layers = edit.value, edit.point.layers
    if value is None:
        return None
    value = jnp.asarray(value)
    if layer is None or value.ndim <= rank:
        return value
    if layers is not None and value.shape[0] == jnp.size(layers):
        chosen = jnp.atleast_1d(jnp.asarray(layers, jnp.int32)) % num_layers
        return value[jnp.argmax(chosen == layer)]
    return value[layer]


def _at_token(x, token, shape) -> Any:
    """Return a token's part of what broadcasts to (b, l, ...)."""
    if x is None or x.ndim < len(shape) - 1:
        return x
    if x.ndim == len(shape) - 1:  # l ...: all samples alike
        return x[jnp.minimum(token, x.shape[0] - 1)]
    return x[:, jnp.minimum(token, x.shape[1] - 1)]


def _cut(edit: Edit, place: Place, num_layers, length, heads):
    """Return what an edit of attention's pairs adds to y."""
    pairs = length - 1 - edit.value if place.is_mirrored else edit.value
    whole = place._replace(axes="bld")

    def change(recurrence, layer):
        def do(recurrence):
            shares = pair_outputs(recurrence, pairs)
            mask = mask_of(edit.point, whole, shares.shape, heads)
            return jnp.where(mask, -shares, 0)

        like = jax.eval_shape(do, recurrence)
        is_here = _is_here(edit, layer, num_layers)
        return jax.lax.cond(
            is_here, do, lambda _: jnp.zeros(like.shape, like.dtype), recurrence
        )

    return change
