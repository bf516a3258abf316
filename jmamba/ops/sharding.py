"""Operands and kernels in programs that run on several devices.

Inside `jax.shard_map` operands vary over axes of the mesh. Outside it XLA partitions
the program by itself. It cannot look into a kernel, so it is told how to split one:
rows of the batch and channels are independent of each other. Every device runs the
kernel on its part, and what all parts share (the cotangents of A, D and the bias over
the batch, those of B and C over channels) is summed over the devices.
"""

from collections.abc import Callable, Sequence

import jax
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
