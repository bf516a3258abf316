"""Sums over the tokens between two others, correct to the last digits."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def running_sums(
    a: Float[Array, "*x t"], *, transposed: bool = False
) -> tuple[Float[Array, "*x t"], Float[Array, "*x t t"]]:
    """Return sum_{s <= i} a[s], and sum_{j < s <= i} a[s] for every i and j.

    A difference of two running sums is off by a rounding error of these, which may be
    far larger than itself. So each number is cut into whole multiples of a unit, whose
    sums and differences are exact, and a rest, whose sums are small.

    Args:
      a: numbers; the sum of their sizes is finite.
      transposed: whether the second result has j before i.

    Examples:
      >>> _, between = running_sums(jnp.array([1e4, 0.1, 0.1]))
      >>> round(float(between[2, 0]), 6)  # 1e4 + 0.2 - 1e4 is 0.200195
      0.2
    """
    limits = jnp.finfo(a.dtype)
    total = jnp.sum(jnp.abs(a), axis=-1, keepdims=True)
    unit = jnp.maximum(total * 2.0 ** (1 - limits.nmant), limits.tiny)
    whole = jnp.round(a / unit)
    high, low = (jnp.cumsum(x, axis=-1) for x in (whole, a - whole * unit))

    def apart(x):
        if transposed:
            return x[..., None, :] - x[..., :, None]
        return x[..., :, None] - x[..., None, :]

    return high * unit + low, apart(high) * unit[..., None] + apart(low)


def rectangle_sums(P: Float[Array, "*x j i"]) -> Float[Array, "*x t"]:
    """Return sum_{j < t <= i} P[j, i] for every t, each term added and none taken away.

    Examples:
      >>> P = jnp.arange(9.0).reshape(3, 3)
      >>> rectangle_sums(P).tolist()  # 1 + 2, 2 + 5
      [0.0, 3.0, 7.0]
    """
    size = P.shape[-1]
    behind = jnp.tri(size, dtype=P.dtype)  # t <= i
    seen = jnp.einsum("...ji,it->...jt", P, behind, precision="highest")
    before = ~jnp.tri(size, dtype=bool)[(None,) * (P.ndim - 2)]  # j < t
    return jnp.sum(jnp.where(before, seen, 0), axis=-2)
