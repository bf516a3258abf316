"""Recurrences over sequences that lie in parts on several devices.

What the tokens of one device do to a state h is h -> a h + b, with a what they leave of
it and b what they make of an empty one. So each device runs through its tokens from an
empty state, the (a, b) are handed on in log2(devices) steps, and each device runs again
from the state before its tokens. No token travels.

What is here is called inside of `jax.shard_map`, by any recurrence whose state decays.

References:
  Blelloch, "Prefix sums and their applications", CMU-CS-90-190, section 1.4.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

Axes = tuple[str, ...]
"""Axes of the mesh that split the tokens, the outermost first."""


def recur_over_parts(
    run: Callable[[Any], tuple[Any, Array]],
    left: Array,
    first: Array,
    axes: Axes,
    segment_ids: Int[Array, "b l"] | None = None,
) -> tuple[Any, Array]:
    """Run a recurrence over a sequence of which each device has a part.

    Args:
      run: called as run(state) -> (outputs, last state) on the tokens of this device;
        run(None) starts from an empty state, and its outputs are not used.
      left: what these tokens leave of a state, were there no resets; from 0 to 1.
      first: the state (b, ...) before the sequence.
      axes: of the mesh, that split the tokens.
      segment_ids: of packed sequences; `run` resets the state within its part.

    Returns:
      Outputs for the tokens of this device, and the state after the whole sequence.
    """
    made = run(None)[1]
    first = first.astype(made.dtype)
    starts_anew = jnp.zeros(first.shape[0], bool)
    if segment_ids is not None:
        before = tokens_before(segment_ids, 1, segment_ids[:, :1], axes)
        ids = jnp.concatenate([before, segment_ids], axis=1)
        changes = ids[:, 1:] != ids[:, :-1]
        starts_anew, forgets = changes[:, 0], jnp.any(changes, axis=1)
        left = jnp.where(_spread(forgets, left), 0, left)
    state = state_before(left, made, first, axes)
    outputs, last = run(jnp.where(_spread(starts_anew, state), 0, state))
    return outputs, of_last_part(last, axes)


def _spread(rows: Bool[Array, "b"], like: Array) -> Array:
    return rows.reshape(-1, *[1] * (like.ndim - 1))


def state_before(left: Array, made: Array, first: Array, axes: Axes) -> Array:
    """Return the state before the tokens of each device.

        h[0] = first,   h[i] = left[i-1] h[i-1] + made[i-1]

    Args:
      left: what the tokens of a device leave of a state.
      made: what they make of an empty one.
      first: the state before the sequence.
      axes: of the mesh, that split the tokens.
    """
    index, count = jax.lax.axis_index(axes), jax.lax.psum(1, axes)
    made = made + jnp.where(index == 0, left * first, 0)
    step = 1
    while step < count:  # a device to which none sends gets zeros
        pairs = [(i, i + step) for i in range(count - step)]
        earlier_left, earlier_made = _send((left, made), pairs, axes)
        left, made = left * earlier_left, left * earlier_made + made
        step *= 2
    return jnp.where(index == 0, first, _from_previous(made, axes))


def tokens_before(x: Array, count: int, first: Array, axes: Axes) -> Array:
    """Return the last tokens before those of each device.

    Args:
      x: shape (b, l, ...), with no fewer than `count` tokens on each device.
      count: how many tokens.
      first: what stands before the sequence, (b, count, ...).
      axes: of the mesh, that split the tokens.
    """
    last = _from_previous(x[:, x.shape[1] - count :], axes)
    return jnp.where(jax.lax.axis_index(axes) == 0, first, last)


def of_last_part(x: Array, axes: Axes) -> Array:
    """Return on every device what that with the last tokens has."""
    is_last = jax.lax.axis_index(axes) == jax.lax.psum(1, axes) - 1
    return jax.lax.psum(jnp.where(is_last, x, 0), axes)


def _from_previous(x: Array, axes: Axes) -> Array:
    count = jax.lax.psum(1, axes)
    return _send(x, [(i, i + 1) for i in range(count - 1)], axes)


def _send(x: Any, pairs: list[tuple[int, int]], axes: Axes) -> Any:
    """Send arrays from the i-th part of the sequence to the j-th, for pairs (i, j).

    JAX counts devices along the mesh's own order of axes, however they are named.
    """
    mesh = jax.sharding.get_abstract_mesh()
    ordered = tuple(name for name in mesh.axis_names if name in axes)
    places = np.arange(jax.lax.psum(1, axes))
    places = places.reshape([mesh.shape[name] for name in ordered])
    places = places.transpose([ordered.index(name) for name in axes]).ravel().tolist()
    return jax.lax.ppermute(x, ordered, [(places[i], places[j]) for i, j in pairs])
