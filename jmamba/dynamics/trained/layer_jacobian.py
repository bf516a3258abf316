"""Block norms of one Mamba layer's Jacobian, by the structure of the layer.

A change of token j reaches token i > j in three stages, each far cheaper than a tangent
of the whole layer: the input projection sees token j alone; the convolution and the
gates feel it for d_conv tokens; from then on nothing is left of it but a change of the
state, which decays on its way to i and is read by C[i].
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.layers.mixer import Block
from jmamba.layers.selection import run_ssm
from jmamba.types import SSMInputs

READERS_AT_ONCE = 16
"""Reading tokens of one matrix product."""


class Primal(NamedTuple):
    """What the layer computes on the tokens themselves.

    Attributes:
      projected: both halves of the input projection, padded by d_conv - 1 zeros at
        either end.
      states: of the recurrence before each token.
      ssm: selective parameters; delta, C and z are padded at the end.
    """

    projected: Float[Array, "p e"]
    states: Float[Array, "l d n"]
    ssm: SSMInputs


@partial(jax.jit, static_argnames=("graphdef", "at_once"))
def squared_layer_norms(
    graphdef: nnx.GraphDef, state, x: Float[Array, "l m"], *, at_once: int
) -> Float[Array, "l l"]:
    """Return the squared Frobenius norms of all blocks d f(x)[i] / d x[j] of a layer.

        d out[i] / d x[j] = W_out silu(z[i]) sum_n C[i, n] exp(A[., n] sum delta)
                            d h[j + k - 1, ., n] / d x[j]    for i >= j + k = j + d_conv

    and the blocks nearer than that by pushing x[j] through d_conv tokens.

    Args:
      graphdef: of a `Block`.
      state: of the same.
      x: tokens entering it.
      at_once: directions in flight together, m at most.
    """
    length, width = x.shape
    block: Block = nnx.merge(graphdef, state)
    window = block.mixer.config.d_conv
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


def run_layer(block: Block, x: Float[Array, "l m"]) -> Primal:
    """Return what derivatives of the layer need of its values."""
    mixer, window = block.mixer, block.mixer.config.d_conv
    projected = mixer.in_proj(block.norm(x[None]))
    ssm = mixer.select(*jnp.split(projected, 2, axis=-1))

    def step(h, token):
        u, delta, B = token
        kept = jnp.exp(delta[:, None] * ssm.A) * h
        return kept + (delta * u)[:, None] * B[None, :], h

    empty = jnp.zeros(ssm.A.shape, ssm.delta.dtype)
    over_time = (
        ssm.u[0].astype(empty.dtype),
        ssm.delta[0],
        ssm.B[0].astype(empty.dtype),
    )
    _, states = jax.lax.scan(step, empty, over_time)
    reach = window + padded_length(x.shape[0])
    ahead = {
        name: jnp.pad(getattr(ssm, name)[0], ((0, reach), (0, 0)))
        for name in ("delta", "C", "z")
    }
    ends = ((window - 1, window - 1), (0, 0))
    return Primal(jnp.pad(projected[0], ends), states, ssm._replace(**ahead))


def _run_window(block, primal, j, token):
    """Return the output at tokens j, ..., j + d_conv - 1, and the state after them."""
    mixer, window = block.mixer, block.mixer.config.d_conv
    seen = jax.lax.dynamic_slice_in_dim(primal.projected, j, 2 * window - 1)
    own = mixer.in_proj(block.norm(token[None, None]))[0]
    before, after = seen[: window - 1], seen[window:]
    x, z = jnp.split(jnp.concatenate([own, after])[None], 2, axis=-1)
    past = jnp.split(before, 2, axis=-1)[0].T[None]  # k-1 d -> b d k-1
    ssm = mixer.select(x, z, conv_state=past)
    y, last_state = run_ssm(ssm, ssm_state=primal.states[j][None])
    out = mixer.out_proj(y)[0].astype(token.dtype)
    return out.at[0].add(token), last_state[0]


def _far_norms(block, primal, start, length, d_state):
    """Return |d out[i]|^2, summed over directions, for i = start, start + 1, ..."""
    ssm, dtype = primal.ssm, d_state.dtype
    W = block.mixer.out_proj.kernel[...].astype(dtype)
    by_channel = jnp.moveaxis(d_state, 0, 2)  # p d n -> d n p
    steps = padded_length(length)
    ahead = jax.lax.dynamic_slice_in_dim(ssm.delta, start, steps)
    elapsed = jnp.cumsum(ahead, axis=0)  # from the window's end, so that it is exact

    def read(first):
        def take(x):
            return jax.lax.dynamic_slice_in_dim(x, start + first, READERS_AT_ONCE)

        C, gate = take(ssm.C).astype(dtype), jax.nn.silu(take(ssm.z).astype(dtype))
        passed = jax.lax.dynamic_slice_in_dim(elapsed, first, READERS_AT_ONCE)
        kept = jnp.exp(passed[:, :, None] * ssm.A[None])  # t d n
        reading = kept * C[:, None, :] * gate[:, :, None]
        d_y = jnp.einsum("tdn,dnp->dtp", reading, by_channel)
        d_out = jnp.einsum("dtp,dm->tpm", d_y, W)
        return jnp.sum(d_out * d_out, axis=(1, 2))

    def read_if_any(first):
        nothing = jnp.zeros(READERS_AT_ONCE, dtype)
        return jax.lax.cond(start + first < length, read, lambda _: nothing, first)

    return jax.lax.map(read_if_any, jnp.arange(0, steps, READERS_AT_ONCE)).ravel()
