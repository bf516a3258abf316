"""Which tokens a layer contracts: logarithmic norms over layers and tokens."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.dynamics.trained.jacobian import check_map
from jmamba.dynamics.trained.layer_jacobian import caches_before
from jmamba.layers.block import Block
from jmamba.layers.model import LayeredModel
from jmamba.layers.stack import walk
from jmamba.ops.meshes import on_any_mesh
from jmamba.requests import WORKING_BYTES, as_key
from jmamba.types import KeyLike


class ContractionMap(NamedTuple):
    """Logarithmic norms of the diagonal blocks of all layers.

    Attributes:
      log_norms: largest eigenvalue of the symmetric part of J[l, l] - 1: below zero the
        layer brings any two values of the token closer, above zero it takes some
        apart. As found, so at most the true one.
      residuals: |S v - mu v| of the vectors found: an eigenvalue is as near as that.
    """

    log_norms: Float[Array, "s l"]
    residuals: Float[Array, "s l"]


@on_any_mesh
def contraction_map(
    model: LayeredModel,
    residual_in: Float[Array, "s l m"],
    *,
    steps: int = 32,
    key: KeyLike | None = None,
    memory_limit: int = WORKING_BYTES,
) -> ContractionMap:
    """Return the logarithmic norm of every token's own block in every layer.

        mu_2 = largest eigenvalue of (J + J^T) / 2 - 1,  J = d x_out[l] / d x_in[l]

    J is never formed: the Lanczos method multiplies by it and by its transpose. Since
    J[l, l] needs the token alone, with the state it finds, this costs as much as a few
    dozen runs of the model.

    Args:
      model: the model.
      residual_in: tokens entering each layer, `trace(...).residual_in[:, b]`.
      steps: of the Lanczos method; with m of them the values are exact.
      key: randomness of the start, or a seed; None for a fixed one.
      memory_limit: bytes that tokens in flight may take, roughly.

    Raises:
      ValueError: a layer is no recurrence, there is not one entry per layer, something
        is not finite, or steps is not between 1 and m.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> inside = jmamba.trace(model, jnp.array([list(b"hello")]))
      >>> contraction_map(model, inside.residual_in[:, 0], steps=16).log_norms.shape
      (2, 5)

    References:
      Söderlind, "The logarithmic norm", BIT 2006.
      Lanczos, "An iteration method for the solution of the eigenvalue problem", 1950.
    """
    model.check_recurrent("contraction_map")
    layers, _, width = residual_in.shape
    count = model.config.num_layers
    if layers != count:
        raise ValueError(
            f"residual_in holds {layers} layers, but the model has {count}; give "
            "trace(model, tokens).residual_in[:, b] of all layers."
        )
    if not 1 <= steps <= width:
        raise ValueError(
            f"steps={steps}: give 1 to {width}, the width of a token; 32 as a rule."
        )
    check_map([run.parameters for run in model.runs()], residual_in)
    graphdef, state = nnx.split(model)
    cache = jax.eval_shape(lambda: model.layer(0)(residual_in[:1, :1]).cache)
    numbers = 2 * steps * width + 12 * cache.ssm_state.size
    at_once = memory_limit // (numbers * residual_in.dtype.itemsize)
    at_once = int(max(1, min(at_once, residual_in.shape[1])))
    key = as_key(key, "contraction_map")
    start = jax.random.normal(key, (width,), residual_in.dtype)
    return _contraction_map(graphdef, state, residual_in, start, steps, at_once)


@partial(jax.jit, static_argnames=("graphdef", "steps", "at_once"))
def _contraction_map(graphdef, state, residual_in, start, steps, at_once):
    def layer(block, carry, x):
        def one(token):
            x, cache = token
            step = partial(_run_token, block, cache)
            _, push = jax.linearize(step, x)
            pull = jax.linear_transpose(push, x)
            return _largest(lambda v: (push(v) + pull(v)[0]) / 2 - v, start, steps)

        before = caches_before(block, x)
        return carry, jax.lax.map(one, (x, before), batch_size=at_once)

    model = nnx.merge(graphdef, state)
    return ContractionMap(*walk(model.runs(), layer, None, residual_in)[1])


def _run_token(block: Block, cache, x: Float[Array, "m"]) -> Float[Array, "m"]:
    """Return what the layer makes of one token, given what it remembers."""
    return block(x[None, None], cache=cache).x[0, 0]


def _largest(multiply, start, steps):
    """Return the largest eigenvalue of a symmetric map, and its residual."""
    tiny = 8 * jnp.finfo(start.dtype).eps

    def step(i, carry):
        V, diagonal, below, v = carry
        V = V.at[i].set(v)
        w = multiply(v)
        a, size = jnp.dot(w, v), jnp.linalg.norm(w)
        for _ in range(2):  # once is not enough (Kahan, Parlett)
            w = w - (V @ w) @ V
        b = jnp.linalg.norm(w)
        b = jnp.where(b > tiny * jnp.maximum(size, tiny), b, 0.0)
        # nothing new left: the rest of the matrix must not hold a larger eigenvalue
        a = jnp.where(jnp.any(v != 0), a, diagonal[0])
        v = jnp.where(b > 0, w / jnp.where(b > 0, b, 1.0), 0.0)
        return V, diagonal.at[i].set(a), below.at[i].set(b), v

    zeros = jnp.zeros(steps, start.dtype)
    V = jnp.zeros((steps, start.size), start.dtype)
    carry = (V, zeros, zeros, start / jnp.linalg.norm(start))
    _, diagonal, below, _ = jax.lax.fori_loop(0, steps, step, carry)
    off = jnp.diag(below[:-1], 1)
    values, vectors = jnp.linalg.eigh(jnp.diag(diagonal) + off + off.T)
    return values[-1], below[-1] * jnp.abs(vectors[-1, -1])
