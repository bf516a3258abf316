"""What each token contributes to each output of a layer, as a vector."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.layers.block import Block
from jmamba.layers.freezing import UNIFIED
from jmamba.ops.meshes import on_any_mesh
from jmamba.requests import WORKING_BYTES


class TokenVectors(NamedTuple):
    """A mixer's output taken apart: out[i] = sum_j vectors[i, j] + bias[i].

    `bias` is what the biases contribute, of the convolution and, where there are any,
    of the projections.

    Examples:
      >>> one = TokenVectors(jnp.ones((1, 1, 1, 4)), jnp.zeros((1, 1, 4)))
      >>> (jnp.sum(one.vectors, axis=2) + one.bias).shape  # the mixer's output
      (1, 1, 4)
    """

    vectors: Float[Array, "b i j m"]
    bias: Float[Array, "b i m"]


@on_any_mesh
def token_vectors(
    block: Block,
    x: Float[Array, "b l m"],
    *,
    memory_limit: int = WORKING_BYTES,
) -> TokenVectors:
    """Return T_i(x_j), the share of token j in output i of a mixer, norm to projection.

        T_i(x_j) = W_out gate[i] (sum_t (alpha[i, t] + D) slope[t] conv[t, j])
                   W_in (w x[j] / rms[j])

    that is, the derivative of the mixer in the direction of x[j] with everything frozen
    that depends on the data: delta, B, C, sigma(a), silu(z) and 1/rms. Vectors and bias
    add up to the mixer's output exactly.

    Args:
      block: `model.layer(i)`.
      x: the residual stream entering it, `trace(...).residual_in[s]`.
      memory_limit: bytes the vectors may take.

    Raises:
      ValueError: the vectors would take more than the limit; the message names the
        bytes and what to do.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> t = jmamba.trace(model, jnp.array([list(b"hello")]))
      >>> vectors, bias = token_vectors(model.layer(1), t.residual_in[1])
      >>> out = t.residual_out[1] - t.residual_in[1]
      >>> bool(jnp.allclose(jnp.sum(vectors, axis=2) + bias, out, atol=1e-5))
      True

    References:
      Pitorro & Treviso, "LaTIM", arXiv 2502.15612; their surrogate for silu is here the
      exact one, sigma(a) held constant, as in Zimerman et al., arXiv 2405.16504.
    """
    batch, length, width = x.shape
    size = batch * length * length * width * x.dtype.itemsize
    if size > memory_limit:
        raise ValueError(
            f"token_vectors would return {size / 2**30:.2f} GiB ({batch} x {length} x "
            f"{length} vectors of {width}), over the limit of "
            f"{memory_limit / 2**30:.2f} GiB. Take fewer tokens or samples, "
            "norm_matrix or alti_matrix, which hold no vectors, one matrix of "
            "reduced_attention(factorise(...), fold=...), or raise memory_limit."
        )
    graphdef, state = nnx.split(block)
    return _token_vectors(graphdef, state, x)


@partial(jax.jit, static_argnames="graphdef")
def _token_vectors(graphdef, state, x):
    vectors, out = _each_token(nnx.merge(graphdef, state), x, lambda T, j, out: T)
    vectors = jnp.moveaxis(vectors, 0, 2)  # j b i m -> b i j m
    return TokenVectors(vectors, out - jnp.sum(vectors, axis=2))


def _each_token(block: Block, x: Float[Array, "b l m"], measure: Callable):
    """Return measure(T(x_j), j, mixer's output) for every token j, and the output."""
    out, push = jax.linearize(lambda x: block.increment(x, frozen=UNIFIED), x)

    def one(j):
        only = jnp.arange(x.shape[1]) == j
        return measure(push(jnp.where(only[None, :, None], x, 0)), j, out)

    return jax.lax.map(one, jnp.arange(x.shape[1]), batch_size=8), out


@on_any_mesh
def norm_matrix(
    block: Block, x: Float[Array, "b l m"], p: float = 2.0
) -> Float[Array, "b i j"]:
    """Return `lp_contributions(token_vectors(block, x), p)` without holding vectors.

    Args:
      block: `model.layer(i)`.
      x: the residual stream entering it, `trace(...).residual_in[s]`.
      p: the norm.

    Raises:
      ValueError: p is less than 1.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> block = jmamba.MambaLM(config, rngs=nnx.Rngs(0)).layer(0)
      >>> norm_matrix(block, jnp.ones((1, 4, 16))).shape
      (1, 4, 4)

    References:
      Pitorro & Treviso, "LaTIM", arXiv 2502.15612.
    """
    check_p(p)
    return _norm_matrix(*nnx.split(block), x, p)


@partial(jax.jit, static_argnames=("graphdef", "p"))
def _norm_matrix(graphdef, state, x, p):
    def size(T, j, out):
        return jnp.linalg.norm(T, ord=p, axis=-1)

    sizes, _ = _each_token(nnx.merge(graphdef, state), x, size)
    return jnp.moveaxis(sizes, 0, 2)  # j b i -> b i j


@on_any_mesh
def alti_matrix(block: Block, x: Float[Array, "b l m"]) -> Float[Array, "b i j"]:
    """Return `alti_contributions(token_vectors(block, x), x)` without holding vectors.

    Args:
      block: `model.layer(i)`.
      x: the residual stream entering it, `trace(...).residual_in[s]`.

    Returns:
      Rows that sum to 1; where no token is near its output, all are 0.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> block = jmamba.MambaLM(config, rngs=nnx.Rngs(0)).layer(0)
      >>> rows = jnp.sum(alti_matrix(block, jnp.ones((1, 4, 16))), axis=2)
      >>> bool(jnp.allclose(rows, 1))
      True

    References:
      Ferrando et al., "Measuring the mixing of contextual information in the
      transformer" (ALTI), arXiv 2203.04212.
    """
    return _alti_matrix(*nnx.split(block), x)


@partial(jax.jit, static_argnames="graphdef")
def _alti_matrix(graphdef, state, x):
    def distance(T, j, out):
        own = (jnp.arange(x.shape[1]) == j)[None, :, None]
        return jnp.sum(jnp.abs(out + x - T - jnp.where(own, x, 0)), axis=-1)

    distances, out = _each_token(nnx.merge(graphdef, state), x, distance)
    size = jnp.sum(jnp.abs(out + x), axis=-1)
    return _nearness(size, jnp.moveaxis(distances, 0, 2))  # j b i -> b i j


@on_any_mesh
def lp_contributions(vectors: TokenVectors, p: float = 2.0) -> Float[Array, "b i j"]:
    """Return the norm of every token vector, s[i, j] = |T_i(x_j)|_p.

    Args:
      vectors: of a layer.
      p: the norm.

    Raises:
      ValueError: p is less than 1.

    Examples:
      >>> vectors = TokenVectors(jnp.array([[[[3.0, 4.0]]]]), jnp.zeros((1, 1, 2)))
      >>> lp_contributions(vectors).tolist()
      [[[5.0]]]

    References:
      Pitorro & Treviso, "LaTIM", arXiv 2502.15612.
    """
    check_p(p)
    return jnp.linalg.norm(vectors.vectors, ord=p, axis=-1)


def check_p(p: float) -> None:
    """Raise unless p is that of a norm.

    Raises:
      ValueError: it is less than 1.
    """
    if not p >= 1:
        raise ValueError(f"p={p}: give at least 1.")


@on_any_mesh
def alti_contributions(
    vectors: TokenVectors, x: Float[Array, "b l m"] | None = None
) -> Float[Array, "b i j"]:
    """Return how near each token vector is to the output it is part of.

        c[i, j] = max(0, |y_i|_1 - |y_i - T_i(x_j)|_1) / sum_k (the same for k)

    Args:
      vectors: of a layer.
      x: the residual stream entering the layer, to count it in: y_i and T_i(x_i) then
        hold x_i. None for the mixer alone.

    Returns:
      Rows that sum to 1; where no token is near its output, all are 0.

    Examples:
      >>> T = jnp.array([[[[3.0], [1.0]], [[0.0], [2.0]]]])  # 2 tokens of width 1
      >>> alti_contributions(TokenVectors(T, jnp.zeros((1, 2, 1)))).tolist()
      [[[0.75, 0.25], [0.0, 1.0]]]

    References:
      Ferrando et al., "Measuring the mixing of contextual information in the
      transformer" (ALTI), arXiv 2203.04212.
    """
    T, y = vectors.vectors, jnp.sum(vectors.vectors, axis=2) + vectors.bias
    if x is not None:
        y = y + x
        T = T + jnp.eye(x.shape[1], dtype=x.dtype)[None, :, :, None] * x[:, None]
    size = jnp.sum(jnp.abs(y), axis=-1)
    return _nearness(size, jnp.sum(jnp.abs(y[:, :, None] - T), axis=-1))


def _nearness(size, distance):
    """Return max(0, size[i] - distance[i, j]), each row divided by its sum."""
    near = jnp.maximum(size[:, :, None] - distance, 0)
    total = jnp.sum(near, axis=-1, keepdims=True)
    return near / jnp.where(total > 0, total, 1)
