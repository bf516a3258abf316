"""Block norms of one layer's Jacobian, by the structure of a recurrence.

A change of token j reaches token i > j in three stages, each far cheaper than a tangent
of the whole layer: the projection sees it for as many tokens as its window is long
(d_conv in Mamba-1); from then on nothing is left of it but a change of the state, which
decays on its way to i, is read by C[i] and finished as the layer finishes its output.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmamba.layers.block import Block
from jmamba.layers.recurrence import by_channel
from jmamba.layers.runs import Run
from jmamba.types import Recurrence

READERS_AT_ONCE = 16
"""Reading tokens of one matrix product."""


class Primal(NamedTuple):
    """What the layer computes on the tokens themselves.

    Attributes:
      x: the tokens, padded by zeros at the end.
      caches: what the layer remembers before each token.
      recurrence: of the tokens, with a head per channel, padded at the end.
      y: what it puts out, padded at the end.
    """

    x: Float[Array, "p m"]
    caches: Any
    recurrence: Recurrence
    y: Float[Array, "p d"]


def has_structure(run: Run) -> bool:
    """Return whether layers of a run are recurrences in the order of the text alone."""
    block = run.block(run.layers.start)
    is_causal = block.mixer.empty_cache(1, jnp.float32) is not None
    return run.is_recurrent and run.is_selective and is_causal and block.is_bare


@partial(jax.jit, static_argnames=("open_block", "at_once"))
def squared_layer_norms(
    open_block: Any, parameters: Any, x: Float[Array, "l m"], *, at_once: int
) -> Float[Array, "l l"]:
    """Return the squared Frobenius norms of all blocks d f(x)[i] / d x[j] of a layer.

        d out[i] / d x[j] = d finish[i] sum_n C[i, n] exp(A[., n] sum delta)
                            d h[j + k - 1, ., n] / d x[j]    for i >= j + k

    and the blocks nearer than that by pushing x[j] through the window's k tokens.

    Args:
      open_block: makes a `Block` of the parameters.
      parameters: of a run of one layer.
      x: tokens entering it.
      at_once: directions in flight together, m at most.
    """
    length, width = x.shape
    block: Block = open_block(jax.tree.map(lambda v: v[0], parameters))
    window = block.mixer.window
    primal = run_layer(block, x)
    count = -(-width // at_once)
    units = jnp.pad(
        jnp.eye(width, dtype=x.dtype), ((0, count * at_once - width), (0, 0))
    )
    units = units.reshape(count, at_once, width)

    def column(j):
        _, push = jax.linearize(partial(_run_window, block, primal, j), x[j])

        def add(total, directions):
            near, d_state = jax.vmap(push)(directions)
            near = jnp.sum(near * near, axis=(0, 2))
            far = _far_norms(block, primal, j + window, length, d_state)
            place = jnp.zeros_like(total)
            place = jax.lax.dynamic_update_slice(place, far, (j + window,))
            place = jax.lax.dynamic_update_slice(place, near, (j,))
            return total + place, None

        start = jnp.zeros(length + window + padded_length(length), x.dtype)
        return jax.lax.scan(add, start, units)[0][:length]

    return jax.lax.map(column, jnp.arange(length)).T


def padded_length(length: int) -> int:
    """Return a length rounded up to whole products."""
    return -(-length // READERS_AT_ONCE) * READERS_AT_ONCE


def caches_before(block: Block, x: Float[Array, "l m"]) -> Any:
    """Return what a layer remembers before each token, along a leading axis."""
    first = block.mixer.empty_cache(1, block.norm.compute)

    def step(cache, token):
        return block(token[None, None], cache=cache).cache, cache

    return jax.lax.scan(step, first, x)[1]


def run_layer(block: Block, x: Float[Array, "l m"]) -> Primal:
    """Return what derivatives of the layer need of its values."""
    recurrence = block.project(x[None]).recurrence
    assert isinstance(recurrence, Recurrence)
    y = block.mixer.recur(recurrence).y[0]
    recurrence = by_channel(recurrence)
    reach = block.mixer.window + padded_length(x.shape[0])

    def pad(v):
        return jnp.pad(v, ((0, reach), *((0, 0),) * (v.ndim - 1)))

    along = {"u", "delta", "B", "C", "z"}
    ahead = {
        name: pad(v[0])
        for name, v in recurrence._asdict().items()
        if name in along and v is not None
    }
    caches = caches_before(block, x)
    return Primal(pad(x), caches, recurrence._replace(**ahead), pad(y))


def _run_window(block, primal, j, token):
    """Return the output at the window's tokens from j on, and the state after them."""
    window = block.mixer.window
    after = jax.lax.dynamic_slice_in_dim(primal.x, j + 1, window - 1)
    x = jnp.concatenate([token[None], after])
    out = block(x[None], cache=jax.tree.map(lambda v: v[j], primal.caches))
    return out.x[0], out.cache.ssm_state[0]


def _far_norms(block, primal, start, length, d_state):
    """Return |d out[i]|^2, summed over directions, for i = start, start + 1, ..."""
    recurrence, dtype = primal.recurrence, d_state.dtype
    groups = recurrence.B.shape[1]
    by_place = jnp.moveaxis(d_state, 0, 2)  # p d n -> d n p
    steps = padded_length(length)
    ahead = jax.lax.dynamic_slice_in_dim(recurrence.delta, start, steps)
    elapsed = jnp.cumsum(ahead, axis=0)  # from the window's end, so that it is exact

    def read(first):
        def take(x):
            return jax.lax.dynamic_slice_in_dim(x, start + first, READERS_AT_ONCE)

        C = jnp.repeat(take(recurrence.C), len(by_place) // groups, axis=1)  # t d n
        passed = jax.lax.dynamic_slice_in_dim(elapsed, first, READERS_AT_ONCE)
        kept = jnp.exp(passed[:, :, None] * recurrence.A[None])  # t d n
        d_y = jnp.einsum("tdn,dnp->ptd", kept * C.astype(dtype), by_place)
        here = {
            name: take(x)[None]
            for name, x in recurrence._asdict().items()
            if name in ("u", "delta", "B", "C", "z") and x is not None
        }
        here = recurrence._replace(**here)
        y = take(primal.y)[None]
        _, push = jax.linearize(lambda y: block.mixer.finish(y, here), y)
        d_out = jax.vmap(lambda d_y: push(d_y[None].astype(y.dtype))[0])(d_y)
        return jnp.sum(d_out * d_out, axis=(0, 2))

    def read_if_any(first):
        nothing = jnp.zeros(READERS_AT_ONCE, dtype)
        return jax.lax.cond(start + first < length, read, lambda _: nothing, first)

    return jax.lax.map(read_if_any, jnp.arange(0, steps, READERS_AT_ONCE)).ravel()
