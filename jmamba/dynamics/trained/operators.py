"""Spectra of the token Jacobian, from products with it alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Complex, Float

from jmamba.dynamics.trained.jacobian import WORKING_BYTES, TokenMap, check_map
from jmamba.ops.meshes import on_any_mesh
from jmamba.requests import as_key
from jmamba.types import KeyLike


@on_any_mesh
def diagonal_blocks(
    f: TokenMap,
    x: Float[Array, "l m"],
    *,
    tokens_at_once: int = 4,
    memory_limit: int = WORKING_BYTES,
) -> Float[Array, "l m m"]:
    """Return the blocks d f(x)[l] / d x[l] of every token.

    Args:
      f: `layer_span(model, ...)`, `path_map(model, i, ...)` or any map of tokens.
      x: where to differentiate.
      tokens_at_once: tokens whose m directions are in flight together.
      memory_limit: bytes the result may take.

    Raises:
      ValueError: the blocks take more than the limit, or x or a weight is not finite.

    Examples:
      >>> f = lambda x: jnp.cumsum(2 * x, axis=0)
      >>> blocks = diagonal_blocks(f, jnp.ones((3, 2)))
      >>> blocks[1].tolist()
      [[2.0, 0.0], [0.0, 2.0]]
    """
    check_map(f, x)
    length, width = x.shape
    size = x.size * width * x.dtype.itemsize
    if size > memory_limit:
        raise ValueError(
            f"diagonal_blocks would return {size / 2**30:.2f} GiB ({length} blocks of "
            f"{width} x {width}), over the limit of {memory_limit / 2**30:.2f} GiB. "
            "Take log_norms(f, x), which keeps one block at a time, token_jacobian("
            "f, x, rows=[i], columns=[i]) for single tokens, or raise memory_limit."
        )
    return _diagonal_blocks(_as_partial(f), x, tokens_at_once)


@partial(jax.jit, static_argnames="tokens_at_once")
def _diagonal_blocks(f, x, tokens_at_once):
    block = partial(_diagonal_block, f, x)
    return jax.lax.map(block, jnp.arange(len(x)), batch_size=tokens_at_once)


def _diagonal_block(f, x, index):
    return jax.jacfwd(lambda token: f(x.at[index].set(token))[index])(x[index])


@on_any_mesh
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


@on_any_mesh
def log_norms(f: TokenMap, x: Float[Array, "l m"]) -> Float[Array, "l"]:
    """Return the logarithmic norm of J[l, l] - 1 of every token.

        mu_2 = largest eigenvalue of the symmetric part of (J[l, l] - 1)

    Below zero a block contracts the token, whatever the direction; above zero it may
    expand it in some. For all layers of a model, `contraction_map` is far cheaper.

    Args:
      f: one block, or several.
      x: where to differentiate.

    Raises:
      ValueError: x or a weight is not finite.

    Examples:
      >>> log_norms(lambda x: 0.5 * x, jnp.ones((2, 3))).tolist()
      [-0.5, -0.5]

    References:
      Söderlind, "The logarithmic norm", BIT 2006.
    """
    check_map(f, x)
    return _log_norms(_as_partial(f), x)


@jax.jit
def _log_norms(f, x):
    def largest(index):
        block = _diagonal_block(f, x, index)
        return jnp.linalg.eigvalsh((block + block.T) / 2)[-1] - 1

    return jax.lax.map(largest, jnp.arange(len(x)))


@on_any_mesh
def singular_values(
    f: TokenMap,
    x: Float[Array, "l m"],
    count: int = 1,
    *,
    steps: int | None = None,
    key: KeyLike | None = None,
    memory_limit: int = WORKING_BYTES,
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
      key: randomness of the start, or a seed; None for a fixed one.
      memory_limit: bytes the two bases of `steps` vectors may take.

    Raises:
      ValueError: count is not between 1 and l m, there are fewer steps than values, the
        bases take more than the limit, or x or a weight is not finite.

    Examples:
      >>> f = lambda x: jnp.array([[3.0], [4.0]]) * x
      >>> s = singular_values(f, jnp.ones((2, 1)), 2)
      >>> [round(float(v), 4) for v in s]
      [4.0, 3.0]

    References:
      Golub & Kahan, "Calculating the singular values and pseudo-inverse of a matrix",
      1965.
    """
    check_map(f, x)
    steps = min(4 * count + 24 if steps is None else steps, x.size)
    if not 1 <= count <= steps:
        raise ValueError(
            f"singular_values(count={count}, steps={steps}): give 1 <= count <= steps "
            f"<= {x.size}, the size l m of the Jacobian."
        )
    size = 2 * steps * x.size * x.dtype.itemsize
    if size > memory_limit:
        raise ValueError(
            f"singular_values would keep {size / 2**30:.2f} GiB (two bases of {steps} "
            f"vectors of {x.size}), over the limit of {memory_limit / 2**30:.2f} GiB. "
            "Ask for fewer values or steps=..., take a shorter text, or raise "
            "memory_limit."
        )
    key = as_key(key, "singular_values")
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
