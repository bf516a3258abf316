"""Operands in programs that run on several devices.

Inside `jax.shard_map` operands vary over axes of the mesh. Outside of it, on `Explicit`
axes of a mesh, types say how operands are spread: results are then spread as their
letters are, and each device runs an op on the part that it has.
"""

import itertools
import math
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from jmamba.ops.meshes import explicit_mesh
from jmamba_kernels.versions import varies_over, vary_over


def vary_together(parts: dict[Any, jax.Array]) -> dict[Any, jax.Array]:
    """Let all operands vary over the mesh axes that any varies over.

    Else the cotangent of an operand shared by all devices would not be summed over
    them: the transpose of this cast is that sum.
    """
    axes = frozenset().union(*map(varies_over, parts.values()))

    def vary(x):
        missing = tuple(sorted(axes - varies_over(x)))
        return vary_over(x, missing) if missing else x

    return {name: vary(x) for name, x in parts.items()}


def keep_places(run: Callable, operands: tuple, in_axes: tuple, out_axes: Any) -> Any:
    """Run a program on operands whose types may say how they are spread over a mesh.

    That is so of the `Explicit` axes of a mesh. There each result is spread as its
    letters are: y (b, l, d) over whatever splits b, l and d of the operands. What the
    program does inside is for XLA to place, as it is everywhere on `Auto` axes.

    Args:
      run: the program, a function of the operands.
      operands: pytrees of arrays; the first decide where letters disagree.
      in_axes: the letters of the operands' axes, one string for all arrays of a pytree
        or a pytree of them; "" where they split no result, `_` for a single such axis.
      out_axes: the letters of the results' axes, likewise.
    """
    mesh = explicit_mesh(jax.tree.leaves(operands))
    if mesh is None:
        return run(*operands)
    over = _spread_letters(operands, in_axes, out_axes)

    def place(axes):
        return NamedSharding(mesh, PartitionSpec(*map(over.get, axes)))

    def run_knowing(*operands):
        before = _OVER.set(over)
        try:
            return run(*operands)
        finally:
            _OVER.reset(before)

    axes, places = mesh.abstract_mesh.explicit_axes, jax.tree.map(place, out_axes)
    run_auto = jax.sharding.auto_axes(run_knowing, axes=axes, out_sharding=places)
    return run_auto(*operands)


_OVER: ContextVar[dict[str, Any]] = ContextVar("over", default={})  # noqa: B039
"""Letter -> axes of the mesh, inside a program that `keep_places` runs."""


def hold(x: jax.Array, axes: str) -> jax.Array:
    """Keep an array of a program where its letters are, as far as that is known.

    Weights that lie over the axis that splits the batch would else draw whole batches
    to themselves. Where nothing is known of places, XLA decides.

    Args:
      x: an array that is being traced.
      axes: its letters; `_` for one that is not split.
    """
    over = _known_places((x,), (axes,), axes)
    if not over or not isinstance(x, Tracer):
        return x
    mesh = jax.sharding.get_abstract_mesh()
    place = NamedSharding(mesh, PartitionSpec(*map(over.get, axes)))
    return jax.lax.with_sharding_constraint(x, place)


def is_spread(operands: Any) -> bool:
    """Say whether types, or what is known of places, spread operands over a mesh.

    Args:
      operands: a pytree of arrays.
    """
    return bool(_OVER.get()) or explicit_mesh(jax.tree.leaves(operands)) is not None


def split_halves(x: jax.Array, axes: str) -> tuple[jax.Array, jax.Array]:
    """Return the halves of an array's last axis, each where its letters are.

    Where these are known, what a device has of one half and another of the other goes
    to its place in one exchange: left to itself XLA makes several.

    Args:
      x: shape (..., 2 d).
      axes: letters of a half.
    """
    if not _OVER.get():
        first, second = jnp.split(x, 2, axis=-1)
        return first, second
    x = hold(x, axes)  # it is made in parts, and no weights travel
    halves = hold(x.reshape(*x.shape[:-1], 2, -1), f"{axes[:-1]}_{axes[-1]}")
    return halves[..., 0, :], halves[..., 1, :]


def run_in_parts(
    run: Callable, operands: tuple, in_axes: tuple, out_axes: tuple, *,
    parallel: str = "d", tokens: int = 1,
) -> Any:  # fmt: skip
    """Run an op such that each device has its part of the rows, tokens and channels.

    So it is where places are known, as in a program that `keep_places` runs. XLA has
    nothing to split in there: a kernel is one, and sums over parts are taken once.

    Args:
      run: the op, hashable. Called as run(axes, *operands) with the axes of the mesh
        that split the sequence; () where each device has whole ones.
      operands: arrays.
      in_axes: their letters. What splits channels splits g, groups of them.
      out_axes: the letters of the results' axes.
      parallel: the letter of channels, or of heads.
      tokens: that a part of a sequence has at least; shorter ones are not split.
    """
    over = _known_places(operands, in_axes, "bl" + parallel)
    sizes = _sizes(operands, in_axes)
    mesh = jax.sharding.get_abstract_mesh()
    count = {k: math.prod(mesh.shape[name] for name in over[k]) for k in over}
    if "l" in over and sizes["l"] // count["l"] < tokens:
        del over["l"]
    groups = sizes.get("g", 1)
    among = count.get(parallel, 1)
    if parallel in over and groups % among and among % groups:
        del over[parallel]  # parts of the channels would be parts of several groups
    if not over:
        return run((), *operands)
    repeats = 1
    if parallel in over and groups > 1:
        over["g"] = over[parallel]
        repeats = max(1, among // groups)
    places = tuple(sorted(over.items()))
    with jax.disable_jit(False):  # JAX runs parts of a mesh's axes only compiled
        return _run_in_parts(
            *operands, run=run, in_axes=tuple(in_axes), out_axes=tuple(out_axes),
            places=places, repeats=repeats,
        )  # fmt: skip


@partial(jax.jit, static_argnames=("run", "in_axes", "out_axes", "places", "repeats"))
def _run_in_parts(*operands, run, in_axes, out_axes, places, repeats):
    over = dict(places)

    def repeat(x, axes):
        if repeats == 1 or "g" not in axes:
            return x
        return jnp.repeat(x, repeats, axis=axes.index("g"))

    def run_part(*parts):
        before = _OVER.set({})
        try:
            return run(over.get("l", ()), *parts)
        finally:
            _OVER.reset(before)

    def specs(all_axes):
        return tuple(PartitionSpec(*map(over.get, axes)) for axes in all_axes)

    run_parts = jax.shard_map(
        run_part,
        in_specs=specs(in_axes),
        out_specs=specs(out_axes),
        axis_names=set(itertools.chain(*over.values())),
    )
    return run_parts(*map(repeat, operands, in_axes))


def _sizes(arrays, all_axes) -> dict[str, int]:
    """Return letter -> entries."""
    return {
        letter: size
        for x, axes in zip(arrays, all_axes, strict=True)
        for letter, size in zip(axes, x.shape, strict=True)
    }


def _known_places(arrays, all_axes, letters: str) -> dict[str, tuple[str, ...]]:
    """Return letter -> axes of the mesh that are known to split it, and do.

    Where an axis of the mesh is known to split several, it splits the first.
    """
    mesh, sizes = jax.sharding.get_abstract_mesh(), _sizes(arrays, all_axes)
    over, free = {}, {*mesh.auto_axes}
    for letter, names in _OVER.get().items():
        names = _mesh_axes(names)
        if letter in letters and letter in sizes and free.issuperset(names):
            if sizes[letter] % math.prod(mesh.shape[name] for name in names) == 0:
                over[letter] = names
                free -= {*names}
    return over


def _spread_letters(operands, in_axes, out_axes) -> dict[str, Any]:
    """Return letter -> mesh axes, of which each splits one letter of an array."""
    arrays = jax.tree.leaves((in_axes, out_axes))
    over = {}

    def read(axes, x):
        for letter, names in zip(axes, jax.typeof(x).sharding.spec, strict=False):
            if letter == "_" or names is None or letter in over:
                continue
            beside = {other for axes in arrays if letter in axes for other in axes}
            taken = {name for k in beside for name in _mesh_axes(over.get(k))}
            if not taken & {*_mesh_axes(names)}:
                over[letter] = names

    def read_all(axes, tree):
        jax.tree.map(lambda x: read(axes, x), tree)

    jax.tree.map(read_all, in_axes, operands)
    return over


def _mesh_axes(names) -> tuple[str, ...]:
    """Return the mesh axes of one entry of a PartitionSpec."""
    return () if names is None else (names,) if isinstance(names, str) else (*names,)
