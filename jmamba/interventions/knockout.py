"""What pairs of tokens add to a recurrence's output, without its matrix."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmamba.attention.matrices.cumulative import DoubleSum, cumulative_sum
from jmamba.types import Recurrence


def pair_weights(
    recurrence: Recurrence, pairs: Int[Array, "p 2"]
) -> Float[Array, "b p h"]:
    """Return alpha[i, j] of chosen pairs, of each head.

        alpha[i, j] = C[i] . exp(A (delta[j+1] + ... + delta[i])) B[j] delta[j]

    Args:
      recurrence: of one direction.
      pairs: (i, j), with j <= i; 0 elsewhere.

    Examples:
      >>> ones, gates = jnp.ones((1, 3, 2)), jnp.ones((1, 3, 1, 1))
      >>> A = jnp.log(jnp.full((2, 1), 0.5))
      >>> recurrence = Recurrence(ones, ones, A, gates, gates)
      >>> weights = pair_weights(recurrence, jnp.array([[2, 0], [1, 1]]))
      >>> [round(float(weight), 3) for weight in weights[0, :, 0]]
      [0.25, 1.0]
    """
    _, delta, A, B, C, _, _ = recurrence
    i, j = pairs[:, 0], pairs[:, 1]
    heads, dtype = delta.shape[-1], delta.dtype
    sums = jax.vmap(jax.vmap(cumulative_sum, 1, 1))(delta)  # over b and h
    S_i, S_j = (DoubleSum(*(x[:, t] for x in sums)) for t in (i, j))
    causal = (j <= i)[None, :, None]
    elapsed = jnp.where(causal, S_i.minus(S_j), 0)  # b p h

    def of_heads(gates):  # b p g n -> b p h n
        gates = jnp.repeat(gates, heads // gates.shape[2], axis=2)
        return gates.astype(dtype)

    read, written = of_heads(C[:, i]), of_heads(B[:, j])
    alpha = jnp.zeros(elapsed.shape, dtype)
    if A.shape[-1] == 1:  # a head's states decay alike
        alpha = jnp.sum(read * written, axis=-1) * jnp.exp(
            A[None, None, :, 0] * elapsed
        )
    else:
        for n in range(A.shape[-1]):  # an array (b, p, h, n) of decays never exists
            decay = jnp.exp(A[None, None, :, n] * elapsed)
            alpha = alpha + read[..., n] * decay * written[..., n]
    return jnp.where(causal, alpha * delta[:, j], 0)


def pair_outputs(
    recurrence: Recurrence, pairs: Int[Array, "p 2"]
) -> Float[Array, "b l d"]:
    """Return what chosen pairs add to the output: the sum of alpha[i, j] u[j] at i.

    Args:
      recurrence: of one direction.
      pairs: (i, j).
    """
    u = recurrence.u
    weights = pair_weights(recurrence, pairs)
    weights = jnp.repeat(weights, u.shape[-1] // weights.shape[-1], axis=-1)  # b p d
    shares = weights * u[:, pairs[:, 1]].astype(weights.dtype)
    return jnp.zeros(u.shape, weights.dtype).at[:, pairs[:, 0]].add(shares)
