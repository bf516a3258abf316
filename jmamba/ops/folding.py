"""Batching by folding: a vmapped recurrence is one larger recurrence.

The new axis is folded into the first of three axes that every operand concerned has:

    k  if only directions differ: the decays are computed once for all of them
    b  if only sequences differ
    d  if parameters differ: rows have their own A, and B and C become groups; in a
       recurrence of heads h
"""

import jax
import jax.numpy as jnp

from jmamba.requests import check_sizes


def _choose_axes(in_axes, out_axes, batched) -> str:
    """Return the axes to fold into: "k", "b", "dhg", or "" where none will do."""
    moving = [
        axes for axes, is_batched in zip(in_axes, batched, strict=True) if is_batched
    ]
    for target in ("k", "b", "dhg"):
        has = [any(letter in axes for letter in target) for axes in moving + out_axes]
        if all(has):
            return target
    return ""


def _fold(x, axes, target, size, is_batched):
    """Merge the leading batch axis of x into its target axis, in front of it."""
    position = next((i for i, a in enumerate(axes) if a in target), None)
    if position is None:
        return x
    if not is_batched:
        x = jnp.broadcast_to(x[None], (size, *x.shape))
    x = jnp.moveaxis(x, 0, position)
    shape = x.shape
    merged = (shape[position] * shape[position + 1],)
    return x.reshape(shape[:position] + merged + shape[position + 2 :])


def _unfold(x, axes, target, size):
    """Undo `_fold`."""
    position = next(i for i, a in enumerate(axes) if a in target)
    split = (size, x.shape[position] // size)
    x = x.reshape(x.shape[:position] + split + x.shape[position + 1 :])
    return jnp.moveaxis(x, position, 0)


def fold_batch(bind, values, dims, in_axes, out_axes):
    """Run a map of the scan over a batch axis; see `jax.interpreters.batching`.

    Args:
      bind: the map, on unbatched operands.
      values: its operands, some with a batch axis.
      dims: where that axis is, None where there is none.
      in_axes: the letters of the operands' own axes.
      out_axes: the letters of the results' axes.
    """
    batched = [dim is not None for dim in dims]
    values = [
        jnp.moveaxis(x, dim, 0) if is_batched else x
        for x, dim, is_batched in zip(values, dims, batched, strict=True)
    ]
    size = next(x.shape[0] for x, yes in zip(values, batched, strict=True) if yes)
    check_sizes("jax.vmap", {"the batch axis": size})
    target = _choose_axes(in_axes, out_axes, batched)
    if not target:
        return _loop(bind, values, batched), [0] * len(out_axes)
    folded = [
        _fold(x, axes, target, size, yes)
        for x, axes, yes in zip(values, in_axes, batched, strict=True)
    ]
    out = bind(*folded)
    out = [
        _unfold(x, axes, target, size) for x, axes in zip(out, out_axes, strict=True)
    ]
    return out, [0] * len(out)


def _loop(bind, values, batched):
    """Run the map once per batch entry: parameters and segments both differ."""
    moving = [x for x, yes in zip(values, batched, strict=True) if yes]

    def run(parts):
        parts = iter(parts)
        return bind(
            *(next(parts) if yes else x for x, yes in zip(values, batched, strict=True))
        )

    return jax.lax.map(run, moving)
