"""Operands that vary over the same mesh axes (`jax.shard_map`)."""

import jax


def vary_together(parts: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Let all operands vary over the mesh axes that any varies over.

    Else the cotangent of an operand shared by all devices would not be summed over
    them: the transpose of this cast is that sum.
    """
    axes = frozenset().union(*(_varies_over(x) for x in parts.values()))

    def vary(x):
        missing = tuple(sorted(axes - _varies_over(x)))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return {name: vary(x) for name, x in parts.items()}


def _varies_over(x) -> frozenset:
    return jax.typeof(x).manual_axis_type.varying
