"""The selective scan on devices that each have a part of its operands."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmamba.ops.primitives import NO_INPUTS, OPERAND_AXES, present, scan_p
from jmamba.ops.sequences import recur_over_parts
from jmamba.ops.sharding import keep_places, run_in_parts, vary_together
from jmamba_kernels import ScanInputs, accumulation_dtype
from jmamba_kernels.selective_scan.table import Choice

RESULT_AXES = ("bld", "bdn")
"""Axes of y and of the last state."""


def bind_scan(
    inputs: ScanInputs, *, delta_softplus: bool, implementation: Choice
) -> tuple[jax.Array, jax.Array]:
    """Return y and the last state, wherever the operands lie."""
    parts = present(inputs)
    axes = tuple(OPERAND_AXES[name] for name in parts)
    scan = _Scan(tuple(parts), delta_softplus, implementation)
    run = partial(run_in_parts, scan, in_axes=axes, out_axes=RESULT_AXES)
    values = tuple(parts.values())
    return keep_places(lambda *values: run(values), values, axes, RESULT_AXES)


class _Scan(NamedTuple):
    """The op on whole sequences, or on the part of them that a device has."""

    names: tuple[str, ...]
    delta_softplus: bool
    implementation: Choice

    def __call__(self, axes, *values):
        parts = vary_together(dict(zip(self.names, values, strict=True)))
        inputs = NO_INPUTS._replace(**parts)
        if not axes:
            return self.bind(inputs)

        def run(state):
            if state is None:  # for the last state alone
                return self.bind(inputs._replace(D=None, z=None, initial_state=None))
            return self.bind(inputs._replace(initial_state=state))

        left, first = self.left(inputs), inputs.initial_state
        first = jnp.zeros_like(left) if first is None else first
        return recur_over_parts(run, left, first, axes, inputs.segment_ids)

    def bind(self, inputs: ScanInputs):
        parts = vary_together(present(inputs))
        out = scan_p.bind(
            *parts.values(),
            names=tuple(parts),
            delta_softplus=self.delta_softplus,
            implementation=self.implementation,
            save_states=False,
        )
        return tuple(out)

    def left(self, inputs: ScanInputs) -> jax.Array:
        """Return what all tokens leave of a state: exp(A sum_t delta[t])."""
        dtype = accumulation_dtype(inputs.u.dtype)
        delta = inputs.delta.astype(dtype)
        if inputs.delta_bias is not None:
            delta = delta + inputs.delta_bias.astype(dtype)[None, None]
        if self.delta_softplus:
            delta = jax.nn.softplus(delta)
        time = jnp.sum(delta, axis=1)[:, :, None]
        return jnp.exp(time * inputs.A.astype(dtype)[None])
