"""Maps in programs that XLA spreads over several devices by itself.

It cannot look into a kernel, so it is told how to split one: rows of the batch and
channels are independent of each other. Every device runs the kernel on its part, and
what all parts share (the cotangents of A, D and the bias over the batch, those of B and
C over channels) is summed over the devices.
"""

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec


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


def digest_of(run: Callable, values: Sequence, *axes: Sequence[str]) -> str:
    """Return a name of a map's program, the same in every process.

    Args:
      run: the map.
      values: its operands.
      *axes: letters of operands and results, by which it is split.
    """
    text = f"{jax.make_jaxpr(run)(*values)} {axes}"
    text = re.sub("0x[0-9a-f]+", "", text)  # where Python keeps a function
    return "jmamba." + hashlib.sha256(text.encode()).hexdigest()


def name_call(ctx: Any, call: Any, name: str) -> None:
    """Let the call of a partitioned map in a program be named after what it does.

    JAX names it after the place of a Python object: in the next process the program is
    another one, which the compilation cache does not hold. The table of names is
    private; should it go, that is how it stays.

    Args:
      ctx: of the lowering.
      call: the operation.
      name: of `digest_of`.
    """
    from jax._src import custom_partitioning as private
    from jax.interpreters.mlir import ir

    table: Any = getattr(private, "_sharding_callbacks", {})
    old = call.attributes["backend_config"].value
    known = table.get(old.encode())
    if known is None:
        return
    ctx.module_context.add_keepalive(table.setdefault(name.encode(), known))
    call.attributes["backend_config"] = ir.StringAttr.get(name)


def sum_after(
    run: Callable, values: Sequence, in_axes: Sequence[str], out_axes: Sequence[str],
    *, parts: int, parallel: str
) -> list:  # fmt: skip
    """Run a map of an op so that devices sum over channels after its loop only.

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
      parallel: the letter of channels, or of heads of p channels.
    """
    size = {
        letter: n
        for x, axes in zip(values, in_axes, strict=True)
        for letter, n in zip(axes, x.shape, strict=True)
    }
    if not any("g" in axes for axes in out_axes):
        return run(*values)
    # cotangents of all parts take no more memory than those of u
    channels = size[parallel] * size.get("p", 1)
    most = channels // (size["g"] * size["n"])
    parts = math.gcd(parts, size[parallel] // size["g"])
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
