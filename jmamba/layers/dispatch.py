"""Tokens on their way to experts: sorted into blocks that one expert reads each."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Dispatch(NamedTuple):
    """Where the choices of all tokens are read, in blocks of one expert each.

    Attributes:
      token: of each place of each block; the number of tokens where there is none.
      expert: of each block.
      place: of each choice of each token, counted over all blocks.
    """

    token: Int[Array, "blocks size"]
    expert: Int[Array, "blocks"]
    place: Int[Array, "t k"]


def dispatch_tokens(choices: Int[Array, "t k"], count: int) -> Dispatch:
    """Sort tokens by the experts they chose, none left out.

    Blocks are as long as tokens fall on an expert in the mean, so that there are at
    most so many blocks more than needed as there are experts: about twice the work
    that is needed if one expert gets all, and of few tokens only the experts they
    chose are read.

    Args:
      choices: experts of each token, different ones.
      count: of experts.

    Examples:
      >>> found = dispatch_tokens(jnp.array([[2], [0], [2]]), 3)
      >>> found.token.tolist(), found.expert.tolist()[:3]
      ([[1], [0], [2]], [0, 2, 2])

    References:
      Gale et al., "MegaBlocks", arXiv 2211.15841, section 4, for blocks without drops.
    """
    tokens, each = choices.shape
    total = tokens * each
    size = -(-total // count)
    most = min(total, (total + min(count, total) * (size - 1)) // size)
    chosen = choices.reshape(-1).astype(jnp.int32)
    order = jnp.argsort(chosen, stable=True).astype(jnp.int32)
    sorted_experts = chosen[order]
    counts = jnp.zeros(count, jnp.int32).at[chosen].add(1)
    blocks = -(-counts // size)
    last_block, last = (jnp.cumsum(x, dtype=jnp.int32) for x in (blocks, counts))
    rank = jnp.arange(total, dtype=jnp.int32) - (last - counts)[sorted_experts]
    first_block = (last_block - blocks)[sorted_experts]
    sorted_place = first_block * size + rank
    place = jnp.zeros(total, jnp.int32).at[order].set(sorted_place)
    token = jnp.full(most * size, tokens, jnp.int32).at[sorted_place].set(order // each)
    numbers = jnp.arange(most, dtype=jnp.int32)
    expert = jnp.searchsorted(last_block, numbers, side="right").astype(jnp.int32)
    return Dispatch(
        token.reshape(most, size),
        jnp.minimum(expert, count - 1),  # blocks that nobody fills read the last one
        place.reshape(tokens, each),
    )


def read_blocks(x: Float[Array, "t m"], dispatch: Dispatch) -> Float[Array, "b s m"]:
    """Return the tokens of all blocks; zeros where a block has none."""
    return jnp.take(x, dispatch.token, axis=0, mode="fill", fill_value=0)


def sum_choices(
    made: Float[Array, "b s m"], weights: Float[Array, "t k"], dispatch: Dispatch
) -> Float[Array, "t m"]:
    """Return what experts made of each token, weighed and added up."""
    each = made.reshape(-1, made.shape[-1])[dispatch.place]  # t k m
    return jnp.einsum("tkm,tk->tm", each, weights.astype(each.dtype))
