"""Spectra of the token Jacobian, from products with it alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Complex, Float

from jmamba.dynamics.jacobian import TokenMap


def diagonal_blocks(
    f: TokenMap, x: Float[Array, "l m"], *, tokens_at_once: int = 4
) -> Float[Array, "l m m"]:
    """Return the blocks d f(x)[l] / d x[l] of every token.

    Args:
      f: `layer_span(model, ...)`, `path_map(model, i, ...)` or any map of tokens.
      x: where to differentiate.
      tokens_at_once: tokens whose m directions are in flight together.

    Examples:
      >>> f = lambda x: jnp.cumsum(2 * x, axis=0)
      >>> blocks = diagonal_blocks(f, jnp.ones((3, 2)))
      >>> blocks[1].tolist()
      [[2.0, 0.0], [0.0, 2.0]]
    """
    return _diagonal_blocks(_as_partial(f), x, tokens_at_once)


@partial(jax.jit, static_argnames="tokens_at_once")
def _diagonal_blocks(f, x, tokens_at_once):
    def block(index):
        return jax.jacfwd(lambda token: f(x.at[index].set(token))[index])(x[index])

    return jax.lax.map(block, jnp.arange(len(x)), batch_size=tokens_at_once)


def block_eigenvalues(
    f: TokenMap, x: Float[Array, "l m"]
) -> Complex[np.ndarray, "l m"]:
    """Return the eigenvalues of the token Jacobian, m of each token's diagonal block.

    A causal map has a block lower triangular Jacobian, so these are all eigenvalues it
    has; the same holds for a product over layers.

    Args:
      f: a causal map of tokens.
      x: where to differentiate.

    Examples:
      >>> block_eigenvalues(lambda x: jnp.cumsum(3 * x, axis=0), jnp.ones((2, 1))).real
      array([[3.],
             [3.]])
    """
    # a non-symmetric eigenproblem runs on the CPU anyhow
    return np.linalg.eigvals(np.asarray(diagonal_blocks(f, x))).astype(complex)


def log_norms(f: TokenMap, x: Float[Array, "l m"]) -> Float[Array, "l"]:
    """Return the logarithmic norm of J[l, l] - 1 of every token.

        mu_2 = largest eigenvalue of the symmetric part of (J[l, l] - 1)

    Below zero a block contracts the token, whatever the direction; above zero it may
    expand it in some.

    Args:
      f: one block, or several.
      x: where to differentiate.

    Examples:
      >>> log_norms(lambda x: 0.5 * x, jnp.ones((2, 3))).tolist()
      [-0.5, -0.5]

    References:
      Söderlind, "The logarithmic norm", BIT 2006.
    """
    blocks = diagonal_blocks(f, x)
    symmetric = (blocks + jnp.swapaxes(blocks, 1, 2)) / 2
    return jnp.linalg.eigvalsh(symmetric)[:, -1] - 1


def singular_values(
    f: TokenMap,
    x: Float[Array, "l m"],
    count: int = 1,
    *,
    steps: int | None = None,
    key: Array | None = None,
) -> Float[Array, "k"]:
    """Return the largest singular values of the whole token Jacobian, descending.

    Golub-Kahan bidiagonalisation with full reorthogonalisation: each step is one
    product with J (forward mode) and one with its transpose (reverse mode).

    Args:
      f: a map of tokens.
      x: where to differentiate.
      count: how many.
      steps: products of each kind; None for 4 count + 24. With l m of them the values
        are exact.
      key: randomness of the start; None for a fixed one.

    Raises:
      ValueError: count is not between 1 and l m, or there are fewer steps than values.

    Examples:
      >>> f = lambda x: jnp.array([[3.0], [4.0]]) * x
      >>> s = singular_values(f, jnp.ones((2, 1)), 2)
      >>> [round(float(v), 4) for v in s]
      [4.0, 3.0]

    References:
      Golub & Kahan, "Calculating the singular values and pseudo-inverse of a matrix",
      1965.
    """
    steps = min(4 * count + 24 if steps is None else steps, x.size)
    if not 1 <= count <= steps:
        raise ValueError(
            f"singular_values(count={count}, steps={steps}): give 1 <= count <= steps "
            f"<= {x.size}, the size l m of the Jacobian."
        )
    key = jax.random.key(0) if key is None else key
    start = jax.random.normal(key, x.shape, x.dtype)
    return _bidiagonalise(_as_partial(f), x, start, steps)[:count]


@partial(jax.jit, static_argnames="steps")
def _bidiagonalise(f, x, start, steps):
    _, push = jax.linearize(f, x)
    pull = jax.linear_transpose(push, x)
    dtype, tiny = x.dtype, jnp.finfo(x.dtype).tiny

    def unit(v, basis):
        for _ in range(2):  # once is not enough (Kahan, Parlett)
            v = v - jnp.tensordot(jnp.tensordot(basis, v, 2), basis, 1)
        size = jnp.linalg.norm(v)
        return v / jnp.maximum(size, tiny), size

    def step(i, carry):
        V, U, v = carry
        V = V.at[i].set(v)
        u, _ = unit(push(v), U)
        U = U.at[i].set(u)
        v, _ = unit(pull(u)[0], V)
        return V, U, v

    basis = jnp.zeros((steps, *x.shape), dtype)
    first = start / jnp.linalg.norm(start)
    V, U, _ = jax.lax.fori_loop(0, steps, step, (basis, basis, first))
    # projected, not read off the recurrence: stays right where the basis was exhausted
    projected = jax.lax.map(lambda v: jnp.tensordot(U, push(v), 2), V)
    return jnp.linalg.svd(projected, compute_uv=False)


def _as_partial(f):
    return f if isinstance(f, Partial) else Partial(f)
