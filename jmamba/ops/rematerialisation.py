"""What the backward pass keeps of a scan, and what it computes again."""

from collections.abc import Callable
from typing import Any

import jax

from jmamba.ops.primitives import scan_p

_PRODUCT = (((1,), (0,)), ((), ()))  # of two matrices


def scans_like_products(policy: Callable[..., Any]) -> Callable[..., Any]:
    """Return a policy to which a scan is what a matrix product is.

    Policies of JAX that keep products would compute scans again, which cost as much.

    Args:
      policy: of `jax.checkpoint_policies`.

    Examples:
      >>> policy = scans_like_products(jax.checkpoint_policies.dots_saveable)
      >>> policy(scan_p), bool(policy(jax.lax.exp_p))
      (True, False)
    """

    def decide(primitive, *avals, **params):
        if primitive is scan_p:
            primitive, params = jax.lax.dot_general_p, {"dimension_numbers": _PRODUCT}
        return policy(primitive, *avals, **params)

    return decide
