"""What a program computes, counted in its trace: products, and recurrences."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from jmamba.ops.operation import SELECTIVE_SCAN, SSD

RECURRENCES = (SELECTIVE_SCAN.name, SSD.name)
"""Primitives that begin so are a recurrence, or a derivative of one."""


class Work(NamedTuple):
    """What all devices together compute in one run of a program.

    Attributes:
      products: floating-point operations of products of matrices and convolutions,
        two for each multiplication and addition.
      streamed: bytes of the operands and results of recurrences, which their kernels
        read and write in the devices' memory.
    """

    products: int = 0
    streamed: int = 0

    def plus(self, other: "Work", times: int = 1) -> "Work":
        """Return both together, the other one so many times."""
        return Work(
            self.products + times * other.products,
            self.streamed + times * other.streamed,
        )


def count_work(traced: ClosedJaxpr | Jaxpr) -> Work:
    """Return what a traced program computes.

    Loops over a known number of steps count as often as they run, others once; of
    branches that with most products counts.

    Args:
      traced: of `jax.make_jaxpr`, or `jitted.trace(...).jaxpr`.

    Examples:
      >>> import jax.numpy as jnp
      >>> x = jnp.ones((3, 4))
      >>> run = lambda x: jax.lax.scan(lambda c, _: (c @ x.T @ x, None), x, length=5)
      >>> count_work(jax.make_jaxpr(run)(x)).products  # 5 steps of 2 x 2 x 3 x 4 x 3
      720
    """
    inner = traced.jaxpr if isinstance(traced, ClosedJaxpr) else traced
    total = Work()
    for equation in inner.eqns:
        total = total.plus(_count_equation(equation))
    return total


def _count_equation(equation: Any) -> Work:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return Work(products=_dot_flops(equation))
    if name == "conv_general_dilated":
        return Work(products=_convolution_flops(equation))
    if name.startswith(RECURRENCES):
        arrays = [x.aval for x in (*equation.invars, *equation.outvars)]
        return Work(streamed=sum(x.size * x.dtype.itemsize for x in arrays))
    parts = [x for x in jax.tree.leaves(params, is_leaf=_is_traced) if _is_traced(x)]
    if name == "cond":
        return max(map(count_work, parts), key=lambda work: work.products)
    times = params["length"] if name == "scan" else 1
    if name == "shard_map":  # what one device does
        axes = params.get("newly_manual_axes") or params["manual_axes"]
        times = math.prod(params["mesh"].shape[axis] for axis in axes)
    total = Work()
    for part in parts:
        total = total.plus(count_work(part), times)
    return total


def _is_traced(x: Any) -> bool:
    return isinstance(x, ClosedJaxpr | Jaxpr)


def _dot_flops(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * equation.outvars[0].aval.size * math.prod(left[i] for i in contracted)


def _convolution_flops(equation: Any) -> int:
    """Return 2 x results x what is summed for each."""
    kernel = equation.invars[1].aval.shape
    out_axis = equation.params["dimension_numbers"].rhs_spec[0]
    summed = math.prod(np.delete(kernel, out_axis).tolist())
    return 2 * equation.outvars[0].aval.size * summed
