"""What each token contributes to each output of a layer, as a vector."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.models.bidirectional import BidirectionalMixer, VimBlock
from jmamba.models.freezing import UNIFIED, Frozen
from jmamba.models.mixer import Block

MEMORY_LIMIT = 2**30
"""Bytes that the vectors of one layer may take."""


class TokenVectors(NamedTuple):
    """A mixer's output taken apart: out[i] = sum_j vectors[i, j] + bias[i].

    `bias` is what the biases contribute, of the convolution and, where there are any,
    of the projections.
    """

    vectors: Float[Array, "b i j m"]
    bias: Float[Array, "b i m"]


def mixer_output(
    block: Block | VimBlock, x: Float[Array, "b l m"], frozen: Frozen
) -> Float[Array, "b l m"]:
    """Return what a block adds to the residual stream."""
    ssm = block.mixer.ssm_inputs(block.norm(x, frozen=frozen.norm), frozen=frozen)
    out: Any = block.mixer.mix(ssm, frozen=frozen)  # type: ignore[arg-type]
    return out if isinstance(block.mixer, BidirectionalMixer) else out[0]


def token_vectors(
    block: Block | VimBlock,
    x: Float[Array, "b l m"],
    *,
    memory_limit: int = MEMORY_LIMIT,
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
            f"{memory_limit / 2**30:.2f} GiB. Take fewer tokens or samples, one matrix "
            "of reduced_attention(factorise(...), fold=...), or raise memory_limit."
        )
    graphdef, state = nnx.split(block)
    return _token_vectors(graphdef, state, x)


@partial(jax.jit, static_argnames="graphdef")
def _token_vectors(graphdef, state, x):
    block = nnx.merge(graphdef, state)
    out, push = jax.linearize(lambda x: mixer_output(block, x, UNIFIED), x)

    def column(j):
        only = jnp.arange(x.shape[1]) == j
        return push(jnp.where(only[None, :, None], x, 0))

    vectors = jax.lax.map(column, jnp.arange(x.shape[1]), batch_size=8)
    vectors = jnp.moveaxis(vectors, 0, 2)  # j b i m -> b i j m
    return TokenVectors(vectors, out - jnp.sum(vectors, axis=2))


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
    if not p >= 1:
        raise ValueError(f"p={p}: give at least 1.")
    return jnp.linalg.norm(vectors.vectors, ord=p, axis=-1)


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
    size = jnp.sum(jnp.abs(y), axis=-1)[:, :, None]
    distance = jnp.sum(jnp.abs(y[:, :, None] - T), axis=-1)
    near = jnp.maximum(size - distance, 0)
    total = jnp.sum(near, axis=-1, keepdims=True)
    return near / jnp.where(total > 0, total, 1)
