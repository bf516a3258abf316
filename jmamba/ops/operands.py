"""Operands of a recurrence that do not fit together, all of them in one message."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jmamba.ops.real_numbers import advise_real
from jmamba.requests import check_sizes


def check_types(op: str, operands: Mapping[str, Any]) -> None:
    """Raise unless segment ids are integers and all other operands real numbers.

    Args:
      op: what the op is called in messages.
      operands: name -> array, or None.

    Raises:
      TypeError: one is of another dtype.
    """
    for name, x in operands.items():
        kind = jnp.integer if name == "segment_ids" else jnp.floating
        if x is not None and not jnp.issubdtype(x.dtype, kind):
            if name == "segment_ids":
                needed, advice = "integers", f"Type {name}.astype(jnp.int32)."
            else:
                needed, advice = "real floating point", advise_real(name, x.dtype)
            raise TypeError(
                f"{op}: {name} is {x.dtype}, but must be {needed}. {advice}"
            )


def check_operands(
    op: str,
    operands: Mapping[str, Any],
    axes: Mapping[str, str],
    sizes: Mapping[str, int],
    shapes: Mapping[str, str],
    *,
    made: str,
) -> None:
    """Raise one error that lists every operand whose dtype or shape does not fit.

    Args:
      op: what the op is called in messages.
      operands: name -> array, or None.
      axes: name -> letters of its axes.
      sizes: letter -> size.
      shapes: name -> its shape in words.
      made: what the sizes are of.

    Raises:
      TypeError: an operand is not of real numbers.
      ValueError: an axis is empty, or a shape does not fit.
    """
    check_types(op, operands)
    check_sizes(op, dict(sizes))
    wrong = [
        f"{name} {x.shape} should be {shapes[name]}"
        for name, x in operands.items()
        if x is not None and x.shape != tuple(sizes[axis] for axis in axes[name])
    ]
    if wrong:
        known = ", ".join(f"{letter}={n}" for letter, n in sizes.items())
        raise ValueError(
            f"{op}: with {known} (from {made}), {'; '.join(wrong)}. The order is "
            "batch, length, channel."
        )
