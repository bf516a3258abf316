"""A recurrence on operands wherever these lie: whole, or in parts on devices."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jmamba.ops.operation import Operation
from jmamba.ops.primitives import PRIMITIVES, present
from jmamba.ops.sequences import recur_over_parts
from jmamba.ops.sharding import keep_places, run_in_parts, vary_together
from jmamba_kernels.selective_scan.table import Choice


def bind_recurrence(
    op: Operation, inputs: Any, *, implementation: Choice, **options: Any
) -> tuple[jax.Array, jax.Array]:
    """Return y and the last state, wherever the operands lie.

    Args:
      op: which recurrence.
      inputs: its operands.
      implementation: which one computes it, or None.
      **options: of the op's maps, hashable.
    """
    parts = present(inputs)
    axes = tuple(op.axes[name] for name in parts)
    out_axes = op.results["y"], op.results["last_state"]
    bound = _Bound(op, tuple(parts), implementation, tuple(options.items()))
    run = partial(
        run_in_parts, bound, in_axes=axes, out_axes=out_axes, parallel=op.parallel
    )
    values = tuple(parts.values())
    return keep_places(lambda *values: run(values), values, axes, out_axes)


class _Bound(NamedTuple):
    """An op on whole sequences, or on the part of them that a device has."""

    op: Operation
    names: tuple[str, ...]
    implementation: Choice
    options: tuple[tuple[str, Any], ...]

    def __call__(self, axes, *values):
        parts = vary_together(dict(zip(self.names, values, strict=True)))
        inputs = self.op.open(parts.values(), parts)
        if not axes:
            return self.bind(inputs)
        inputs = inputs._replace(initial_state=None)

        def run(state):
            if state is None:  # for the last state alone
                return self.bind(inputs._replace(**dict.fromkeys(self.op.outer)))
            return self.bind(inputs._replace(initial_state=state))

        left = self.op.left(inputs, **dict(self.options))
        first = parts.get("initial_state", jnp.zeros_like(left))
        return recur_over_parts(run, left, first, axes, inputs.segment_ids)

    def bind(self, inputs: Any) -> tuple[jax.Array, jax.Array]:
        parts = vary_together(present(inputs))
        y, last_state = PRIMITIVES[self.op.name].scan.bind(
            *parts.values(),
            names=tuple(parts),
            implementation=self.implementation,
            save_states=False,
            **dict(self.options),
        )
        return y, last_state
