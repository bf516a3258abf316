"""Operands and kernels in programs that run on several devices.

Inside `jax.shard_map` operands vary over axes of the mesh. Outside it XLA partitions
the program by itself. It cannot look into a kernel, so it is told how to split one:
rows of the batch and channels are independent of each other. Every device runs the
kernel on its part, and what all parts share (the cotangents of A, D and the bias over
the batch, those of B and C over channels) is summed over the devices.
"""

import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from jmamba_kernels.versions import varies_over, vary_over


def vary_together(parts: dict[str, jax.Array]) -> dict[str, jax.Array]:
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
    mesh = _explicit_mesh(operands)
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


def hold(x: jax.Array, axes: str, *, lend: str = "") -> jax.Array:
    """Keep an array of a program where its letters are, as far as that is known.

    Weights that lie over the axis that splits the batch would else draw whole batches
    to themselves. Where nothing is known of places, XLA decides.

    Args:
      x: an array that is being traced.
      axes: its letters.
      lend: a pair such as "ld": what splits the first letter splits the second.
    """
    over = dict(_OVER.get())
    if lend and lend[0] in over:
        names = [over.get(lend[1], ()), over.pop(lend[0])]
        pairs = [(n,) if isinstance(n, str) else tuple(n) for n in names]
        over[lend[1]] = pairs[0] + pairs[1]
    if not over or not isinstance(x, Tracer):
        return x
    mesh = jax.sharding.get_abstract_mesh()
    place = NamedSharding(mesh, PartitionSpec(*map(over.get, axes)))
    return jax.lax.with_sharding_constraint(x, place)


def _explicit_mesh(operands) -> Any:
    """Return the mesh of which the types of arrays speak, None if they do not."""
    for x in jax.tree.leaves(operands):
        mesh = jax.typeof(x).sharding.mesh
        if mesh.explicit_axes:
            place = None if isinstance(x, Tracer) else x.sharding
            return getattr(place, "mesh", mesh)
    return None


def _spread_letters(operands, in_axes, out_axes) -> dict[str, Any]:
    """Return letter -> mesh axes, of which each splits one letter of an array."""
    arrays = jax.tree.leaves((in_axes, out_axes))
    over = {}

    def read(axes, x):
        for letter, names in zip(axes, jax.typeof(x).sharding.spec, strict=False):
            if letter == "_" or names is None or letter in over:
                continue
            beside = {other for axes in arrays if letter in axes for other in axes}
            if not any(_mesh_axes(names) & _mesh_axes(over.get(k)) for k in beside):
                over[letter] = names

    def read_all(axes, tree):
        jax.tree.map(lambda x: read(axes, x), tree)

    jax.tree.map(read_all, in_axes, operands)
    return over


def _mesh_axes(names) -> set[str]:
    """Return the mesh axes of one entry of a PartitionSpec."""
    return set() if names is None else {names} if isinstance(names, str) else {*names}


def partition_over_devices(
    run: Callable, values: Sequence, in_axes: Sequence[str], out_axes: Sequence[str]
) -> list:
    """Run a map of the scan on operands that may be spread over devices.

    Args:
      run: the map, on the part of one device or on the whole.
      values: its operands, u first.
      in_axes: the letters of the operands' axes.
      out_axes: the letters of the results' axes.

    Returns:
      What `run` returns. Splits of other axes than b and d are gathered first, and so
      are those of d where its parts are not whole groups of B and C.
    """
    groups = next(
        x.shape[axes.index("g")]
        for x, axes in zip(values, in_axes, strict=True)
        if "g" in axes
    )

    def partition(mesh, operands, results):
        over = _split(operands[0].sharding, groups)
        names = {"b": over["b"], "d": over["d"]}
        names["g"] = over["d"] if groups > 1 else None

        def place(axes):
            spec = PartitionSpec(*(names.get(letter) for letter in axes))
            return NamedSharding(mesh, spec)

        def run_part(*parts):
            out = run(*parts)
            return [_sum_parts(x, a, names) for x, a in zip(out, out_axes, strict=True)]

        return mesh, run_part, [place(a) for a in out_axes], tuple(map(place, in_axes))

    call = custom_partitioning(lambda *parts: run(*parts))
    rule, sizes = _rule(in_axes, out_axes, groups, values[0].shape[-1])
    whole = dict.fromkeys(x for x in rule if x in "klmn")  # in order of appearance
    call.def_partition(
        partition,
        sharding_rule=rule,
        need_replication_factors=tuple(whole),
        **sizes,  # pyright: ignore[reportArgumentType]
    )
    return call(*values)


def sum_after(
    run: Callable, values: Sequence, in_axes: Sequence[str], out_axes: Sequence[str],
    *, parts: int
) -> list:  # fmt: skip
    """Run a map of the scan so that devices sum over channels after its loop only.

    The cotangents of B and C are sums over channels. Where devices hold channels each,
    XLA would sum over the devices within the loop, once for every token or chunk. So
    the channels of each device become groups with cotangents of their own, whose sum
    is taken behind the loop.

    Args:
      run: the map.
      values: its operands.
      in_axes: the letters of the operands' axes.
      out_axes: the letters of the results' axes.
      parts: devices that XLA spreads the program over; how, is not known here.
    """
    size = {
        letter: n
        for x, axes in zip(values, in_axes, strict=True)
        for letter, n in zip(axes, x.shape, strict=True)
    }
    if not any("g" in axes for axes in out_axes):
        return run(*values)
    # cotangents of all parts take no more memory than those of u
    split_letter = "d" if "d" in size else "h"  # channels, or heads of p channels
    channels = size[split_letter] * size.get("p", 1)
    most = channels // (size["g"] * size["n"])
    parts = math.gcd(parts, size[split_letter] // size["g"])
    parts = max(p for p in range(1, parts + 1) if parts % p == 0 and p <= max(most, 1))

    def split(x, axes):
        return jnp.repeat(x, parts, axis=axes.index("g")) if "g" in axes else x

    def join(x, axes):
        if "g" not in axes:
            return x
        at = axes.index("g")
        shape = (*x.shape[:at], size["g"], parts, *x.shape[at + 1 :])
        return jnp.sum(x.reshape(shape), axis=at + 1)

    if parts == 1:
        return run(*values)
    out = run(*map(split, values, in_axes))
    return list(map(join, out, out_axes))


def _rule(in_axes, out_axes, groups: int, channels: int):
    """Return the rule of Shardy: which axes go together, channels as groups of p."""
    channel = "(g p)" if groups > 1 else "d"

    def mapping(all_axes):
        return ", ".join(
            " ".join(channel if letter == "d" else letter for letter in axes)
            for axes in all_axes
        )

    sizes = {"p": channels // groups} if groups > 1 else {}
    return f"{mapping(in_axes)} -> {mapping(out_axes)}", sizes


def _split(sharding, groups: int) -> dict:
    """Return the mesh axes that split b and d of u, None where none does."""
    spec = tuple(sharding.spec) + (None,) * 3
    over = {"b": spec[0], "d": spec[2]}
    if groups > 1 and over["d"] is not None:
        names = over["d"] if isinstance(over["d"], tuple) else (over["d"],)
        count = 1
        for name in names:
            count *= sharding.mesh.shape[name]
        if groups % count:
            over["d"] = None
    return over


def _sum_parts(x, axes: str, names: dict):
    """Sum a result over the devices whose parts it was made from."""
    if "b" not in axes and names["b"] is not None:
        x = jax.lax.psum(x, names["b"])
    if "d" not in axes and names["d"] is not None and names["g"] is None:
        x = jax.lax.psum(x, names["d"])
    return x
