"""What the backward pass keeps of a scan, and what it computes again."""

from collections.abc import Callable
from typing import Any

import jax

from jmamba.ops.primitives import PRIMITIVES

_PRODUCT = (((1,), (0,)), ((), ()))  # of two matrices
_SCANS = frozenset(made.scan for made in PRIMITIVES.values())


def scans_like_products(policy: Callable[..., Any]) -> Callable[..., Any]:
    """Return a policy to which a scan is what a matrix product is.

    Policies of JAX that keep products would compute scans again, which cost as much.

    Args:
      policy: of `jax.checkpoint_policies`.

    Examples:
      >>> policy = scans_like_products(jax.checkpoint_policies.dots_saveable)
      >>> policy(PRIMITIVES["ssd"].scan), bool(policy(jax.lax.exp_p))
      (True, False)
    """

    def decide(primitive, *avals, **params):
        if primitive in _SCANS:
            primitive, params = jax.lax.dot_general_p, {"dimension_numbers": _PRODUCT}
        return policy(primitive, *avals, **params)

    return decide
