"""Running maxima, by which exponential weights are divided before they overflow."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmamba.types import GatedRecurrence


class Maxima(NamedTuple):
    """Largest log weights, decayed: of the state before a token and after it, and of
    what the token reads."""

    before: Float[Array, "b l h"]
    read: Float[Array, "b l h"]
    written: Float[Array, "b l h"]


def running_maxima(recurrence: GatedRecurrence) -> Maxima:
    """Return the running maxima of the log weights of all earlier tokens.

        written[t] = max(written[t-1] + log_decay[t], log w[t])

    with before[t] = written[t-1]. What is read is what is written, but for a bonus,
    which lets tokens read before they decay the state: max(before[t], log w[t]). All
    are zero where tokens have no weights.

    Raises:
      ValueError: there are weights, and decays of every state or erasures.
    """
    log_weights, log_decay = recurrence.log_weights, recurrence.log_decay
    if log_weights is None:
        zeros = jnp.zeros(log_decay.shape[:-1], log_decay.dtype)
        return Maxima(zeros, zeros, zeros)
    if log_decay.shape[-1] != 1 or recurrence.erase_reads is not None:
        raise ValueError(
            f"log_weights need one decay per head, and no erasure, but log_decay is "
            f"{log_decay.shape}: give log_decay of shape (b, l, h, 1), or weigh keys."
        )

    def join(first, second):
        (decay, most), (next_decay, next_most) = first, second
        return decay + next_decay, jnp.maximum(most + next_decay, next_most)

    parts = (log_decay[..., 0], log_weights)
    _, written = jax.lax.associative_scan(join, parts, axis=1)
    before = jnp.pad(
        written[:, :-1], ((0, 0), (1, 0), (0, 0)), constant_values=-jnp.inf
    )
    has_bonus = recurrence.bonus is not None
    read = jnp.maximum(before, log_weights) if has_bonus else written
    return Maxima(before, read, written)


def divisor(
    sums: Float[Array, "b x y"], floor: Float[Array, "..."], read: Float[Array, "b x y"]
) -> Float[Array, "b x y"]:
    """Return max(|sums|, floor exp(-read)), with sums of weights over exp(read)."""
    largest = jnp.log(jnp.finfo(sums.dtype).max).astype(sums.dtype) - 1
    return jnp.maximum(jnp.abs(sums), floor * jnp.exp(jnp.minimum(-read, largest)))
