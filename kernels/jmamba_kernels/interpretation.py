"""Pallas kernels that run anywhere: compiled on their chip, interpreted on a CPU.

Write `pallas_call_anywhere(kernel, ...)` for `pl.pallas_call(kernel, ...)`:

    run = pallas_call_anywhere(
        kernel, name="selective_scan_tpu_scan", interpret=pltpu.InterpretParams(),
        grid=..., in_specs=..., out_specs=..., out_shape=..., compiler_params=...)
    y, last_state = run(u, delta)

The choice falls when a program is lowered, not when it is traced: lowered for a CPU,
the program holds the interpreted kernel, an ordinary XLA program (slow; for tests, and
for looking inside); lowered for anything else, also from a CPU with
`jit(f).trace(x).lower(lowering_platforms=("cuda",))`, it holds the kernel itself.
So an implementation that is asked for by name is the same everywhere.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
from jax.experimental import pallas as pl

from jmamba_kernels.versions import struct_like


def run_anywhere(compiled: Callable, interpreted: Callable) -> Callable:
    """Return a function that is `interpreted` on a CPU and `compiled` elsewhere."""

    def run(*operands):
        return jax.lax.platform_dependent(*operands, cpu=interpreted, default=compiled)

    return run


def pallas_call_anywhere(
    kernel: Callable,
    *,
    name: str,
    interpret: Any = True,
    interpreted: Callable | None = None,
    **options,
) -> Callable:
    """Return `pl.pallas_call` of a kernel, interpreted where it is lowered for a CPU.

    Args:
      kernel: the body, a function of refs.
      name: what compiled text calls the kernel, on every backend (Triton takes it
        from the function, the others from the call).
      interpret: how to interpret, for example `pltpu.InterpretParams()`.
      interpreted: the body to interpret, where it is another one, for example with
        loops that are not unrolled; None for the same.
      **options: what `pl.pallas_call` takes beside these. Results vary over the mesh
        axes that the first operand varies over (`jax.shard_map`).

    Examples:
      >>> import jax.numpy as jnp
      >>> def double_kernel(x_ref, y_ref):
      ...     y_ref[...] = 2 * x_ref[...]
      >>> x = jnp.arange(3.0)
      >>> pallas_call_anywhere(double_kernel, name="double", out_shape=x)(x)
      Array([0., 2., 4.], dtype=float32)
    """

    out_shape = options.pop("out_shape")

    def call(body, **more):
        @wraps(body)
        def named(*refs, **scratch):
            body(*refs, **scratch)

        named.__name__ = named.__qualname__ = name

        def run(*operands):
            first = jax.tree.leaves(operands)[0]
            shapes = jax.tree.map(partial(struct_like, operand=first), out_shape)
            run = pl.pallas_call(named, name=name, out_shape=shapes, **options, **more)
            return run(*operands)

        return run

    return run_anywhere(call(kernel), call(interpreted or kernel, interpret=interpret))
