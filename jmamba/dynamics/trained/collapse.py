"""How alike the tokens of a sequence are: rank collapse and its measures."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmamba.ops.meshes import on_any_mesh


class Collapse(NamedTuple):
    """Measures of how alike tokens are, one per sequence.

    Attributes:
      residual: |X - mean token| / |X| in the Frobenius norm: 0 if all are equal.
      effective_rank: exp of the entropy of the normalised squared singular values.
      stable_rank: |X|_F^2 / |X|_2^2.
      cosine: mean cosine between two tokens.
      variance: mean squared distance from the mean token.
    """

    residual: Float[Array, "*b"]
    effective_rank: Float[Array, "*b"]
    stable_rank: Float[Array, "*b"]
    cosine: Float[Array, "*b"]
    variance: Float[Array, "*b"]


@on_any_mesh
@jax.jit
def measure_collapse(x: Float[Array, "*b l m"]) -> Collapse:
    """Return how alike the tokens of each sequence are.

    Args:
      x: tokens, such as `trace(...).residual_out`: all layers at once.

    Examples:
      >>> alike = measure_collapse(jnp.ones((3, 2)))
      >>> float(alike.residual), round(float(alike.effective_rank), 4)
      (0.0, 1.0)
      >>> round(float(measure_collapse(jnp.eye(3)).effective_rank), 4)
      3.0

    References:
      Dong et al., "Attention is not all you need", arXiv 2103.03404 (the residual).
      Roy & Vetterli, "The effective rank", 2007.
      Joseph et al., "Lambda-skip connections", arXiv 2410.10609 (for SSMs).
    """
    length = x.shape[-2]
    centred = x - jnp.mean(x, axis=-2, keepdims=True)
    total = jnp.sum(x * x, axis=(-2, -1))
    squares = jnp.linalg.svd(x, compute_uv=False) ** 2
    share = squares / jnp.sum(squares, axis=-1, keepdims=True)
    entropy = -jnp.sum(jnp.where(share > 0, share * jnp.log(share), 0.0), axis=-1)
    unit = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    # the sum of all cosines is |sum of unit vectors|^2, and l of them are 1
    sums = jnp.sum(jnp.sum(unit, axis=-2) ** 2, axis=-1)
    scatter = jnp.sum(centred * centred, axis=(-2, -1))
    return Collapse(
        residual=jnp.sqrt(scatter / total),
        effective_rank=jnp.exp(entropy),
        stable_rank=total / jnp.max(squares, axis=-1),
        cosine=(sums - length) / (length * max(length - 1, 1)),
        variance=scatter / length,
    )


@on_any_mesh
@jax.jit
def centred_alignment(
    x: Float[Array, "l m"], y: Float[Array, "l e"]
) -> Float[Array, ""]:
    """Return the linear centred kernel alignment (CKA) of two sets of tokens.

        |X^T Y|_F^2 / (|X^T X|_F |Y^T Y|_F)   for centred X and Y

    It is 1 for representations equal up to rotation and scale, whatever their widths.

    Args:
      x: tokens in one layer.
      y: the same tokens in another, or in another model.

    Examples:
      >>> x = jnp.array([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
      >>> round(float(centred_alignment(x, -5 * x[:, ::-1])), 4)
      1.0

    References:
      Kornblith et al., "Similarity of neural network representations revisited", 2019.
    """
    x, y = (v - jnp.mean(v, axis=0, keepdims=True) for v in (x, y))
    cross = jnp.sum((x.T @ y) ** 2)
    return cross / jnp.sqrt(jnp.sum((x.T @ x) ** 2) * jnp.sum((y.T @ y) ** 2))


@on_any_mesh
def alignment_matrix(x: Float[Array, "s l m"]) -> Float[Array, "s s"]:
    """Return the alignment of every layer with every other.

    Args:
      x: tokens by layer, `trace(...).residual_out[:, b]`.

    Examples:
      >>> x = jax.random.normal(jax.random.key(0), (3, 5, 4))
      >>> alignment_matrix(x).shape
      (3, 3)
    """
    return jax.lax.map(lambda a: jax.lax.map(lambda b: centred_alignment(a, b), x), x)
