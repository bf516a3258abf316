"""How a primitive is lowered: which implementation runs, on one device or several.

The same for every recurrence. Which implementation runs is chosen when a program is
lowered for a platform, not when it is traced.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.core import Tracer
from jax.extend.core import Primitive
from jax.interpreters import mlir

from jmamba.ops.partitioning import (
    digest_of,
    name_call,
    partition_over_devices,
    sum_after,
)
from jmamba_kernels.targets import PLATFORMS, Target
from jmamba_kernels.versions import without_varying


class Map(NamedTuple):
    """What a primitive computes, with some implementation of it.

    Attributes:
      run: (implementation's maps, *values, **params) -> list of results.
      axes: (**params) -> the letters of the operands' axes, and of the results'.
      choose: (what was asked for, target, dtype=) -> name and maps to run.
      parallel: the letter of channels, or of heads, which devices may share.
    """

    run: Callable[..., list]
    axes: Callable[..., tuple[Sequence[str], Sequence[str]]]
    choose: Callable[..., tuple[str, Any]]
    parallel: str


def register_lowerings(primitive: Primitive, computed: Map) -> None:
    """Let a primitive run by itself, and be lowered for every platform.

    Its parameters are those of `computed.run`, and `implementation`.
    """

    def evaluate(*values, **params):
        params = tuple(sorted(params.items()))
        with jax.disable_jit(False):  # a primitive is one step, as all of JAX's are
            return _evaluate(*values, primitive=primitive, params=params)

    primitive.def_impl(evaluate)
    _show_devices_to(primitive)
    for platform in PLATFORMS:
        lower = _lower_for(primitive, computed, platform)
        mlir.register_lowering(primitive, lower, platform=platform)


@partial(jax.jit, static_argnames=("primitive", "params"))
def _evaluate(*values, primitive, params):
    if not any(isinstance(x, Tracer) for x in values):
        # under jax_debug_nans JAX calls what it had compiled once more as it stands, to
        # find the operation whose result it is not content with
        raise FloatingPointError(
            f"invalid value (NaN, or infinity) encountered in {primitive.name}"
        )
    return primitive.bind(*values, **dict(params))


def _lower_for(primitive, computed: Map, platform: str):
    def run(*values, target, digests, implementation, **params):
        name, maps = computed.choose(implementation, target, dtype=values[0].dtype)
        with jax.named_scope(f"{primitive.name}.{name}"):
            run_map = partial(computed.run, maps, **params)
            axes = computed.axes(**params)
            if _is_split_by_us(name, target):
                digests.append(digest_of(run_map, values, *axes))
                return partition_over_devices(run_map, values, *axes)
            split = {"parts": target.parts, "parallel": computed.parallel}
            return sum_after(run_map, values, *axes, **split)

    lower = mlir.lower_fun(run, multiple_results=True)

    def lower_for_one_device(ctx, *values, **params):
        target = _target(ctx, platform)
        # all operands vary alike: an implementation need not know over what
        avals = [without_varying(x) for x in ctx.avals_in]
        digests: list[str] = []
        out = lower(
            ctx.replace(avals_in=avals),
            *values,
            target=target,
            digests=digests,
            **params,
        )
        for name in digests:
            name_call(ctx, out[0].owner, name)
        return out

    return lower_for_one_device


def _show_devices_to(primitive) -> None:
    """Let the lowering of a primitive see the devices it is for.

    It must know them to split a kernel over several, and to tell GPUs apart; JAX has no
    public way to ask. Should the private one go, devices are unknown: `choose` then
    takes the XLA form on GPUs.
    """
    from jax._src import dispatch

    getattr(dispatch, "prim_requires_devices_during_lowering", set()).add(primitive)


def _target(ctx, platform: str) -> Target:
    """Return what is known of the device a program is lowered for."""
    devices = getattr(ctx.module_context.axis_context, "device_assignment", None)
    capability = getattr(devices[0], "compute_capability", None) if devices else None
    return Target(
        platform,
        capability=None if capability is None else float(capability),
        parts=_count_parts(ctx),
    )


def _count_parts(ctx) -> int:
    """Return how many devices XLA will split the program over by itself."""
    context = ctx.module_context.axis_context
    if hasattr(context, "manual_axes"):  # inside shard_map, or a mesh's jit
        manual = context.manual_axes | set(context.mesh.manual_axes)
        sizes = context.mesh.shape.items()
        return math.prod(size for name, size in sizes if name not in manual)
    return getattr(context, "num_devices", None) or 1


def _is_split_by_us(name: str, target: Target) -> bool:
    """Return whether XLA must be told how to split a kernel, and can be."""
    is_kernel = name.startswith("pallas")
    return is_kernel and target.is_partitioned and target.platform != "tpu"
