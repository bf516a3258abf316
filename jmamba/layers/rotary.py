"""Rotations of queries and keys by the places of their tokens."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmamba_kernels import accumulation_dtype


def rotate_pairs(
    x: Float[Array, "b l h n"],
    places: Int[Array, "b l"],
    width: int,
    *,
    theta: float = 1e4,
) -> Float[Array, "b l h n"]:
    """Return x with pairs of its first numbers turned by angles of its place.

        (x[i], x[i + w/2]) turned by place theta^(-2 i / w)    for i < w/2

    Products of queries and keys so depend on how far apart their tokens are.

    Args:
      x: queries or keys.
      places: of the tokens.
      width: w, how many numbers turn; the others stay.
      theta: base of the wavelengths.

    Examples:
      >>> x = jnp.ones((1, 2, 1, 2))
      >>> turned = rotate_pairs(x, jnp.array([[0, 3]]), 2)
      >>> turned[0, 0, 0].tolist(), bool(jnp.isclose(jnp.sum(turned[0, 1] ** 2), 2))
      ([1.0, 1.0], True)

    References:
      Su et al., "RoFormer", arXiv 2104.09864, section 3.2.2, by halves as in GPT-NeoX.
    """
    dtype = accumulation_dtype(x.dtype)
    turning, staying = x[..., :width].astype(dtype), x[..., width:]
    powers = jnp.arange(0, width, 2, dtype=dtype) / width
    lengths = (jnp.asarray(theta, dtype) ** powers)[None, None]
    angles = places[..., None].astype(dtype) / lengths
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    first, second = jnp.split(turning, 2, axis=-1)
    turned = jnp.concatenate(
        [first * cos - second * sin, second * cos + first * sin], axis=-1
    )
    return jnp.concatenate([turned.astype(x.dtype), staying], axis=-1)
