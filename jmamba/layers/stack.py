"""Blocks of the same kind, stacked along a leading layer axis and run in one scan."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


def stack_layers(
    make_block: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs
) -> Any:
    """Return a module whose parameters have a leading axis of `count` layers."""
    make = nnx.vmap(make_block, in_axes=(0,), out_axes=0)
    return nnx.split_rngs(splits=count)(make)(rngs)


def pick_layer(layers: Any, count: int, index: int) -> Any:
    """Return one of the stacked blocks as a module of its own.

    Raises:
      IndexError: there is no such layer; negative indices count from the end.
    """
    if not -count <= index < count:
        raise IndexError(f"layer {index} of a model with {count} layers (0 based).")
    graphdef, state = nnx.split(layers)
    return nnx.merge(graphdef, jax.tree.map(lambda x: x[index], state))


class Run(NamedTuple):
    """Consecutive layers of one kind, stacked, and which of a model's they are."""

    layers: slice
    blocks: Any


def take_layers(layers: Any, part: slice) -> Any:
    """Return some of the stacked blocks, as a stack."""
    graphdef, state = nnx.split(layers)
    return nnx.merge(graphdef, jax.tree.map(lambda x: x[part], state))


def scan_layers(
    runs: Sequence[Run],
    x: Float[Array, "b l m"],
    visit: tuple[Callable, Any] | None = None,
    *,
    cache: Any = None,
    remat: bool = False,
    **options,
):
    """Run stacked blocks in one scan per run: compile time is flat in depth.

    Args:
      runs: all layers, as a model's `runs()`: one run unless layers differ in kind.
      x: the residual stream before the first block.
      visit: called as visit(carry, x_in, output of the block) -> carry after each
        block; a pair (visit, initial carry), or None.
      cache: what each block remembers of earlier tokens, or None.
      remat: whether the backward pass recomputes each block.
      **options: keywords of the blocks.

    Returns:
      The residual stream after the last block, the new cache and visit's carry.
    """
    see, carry = visit or (lambda carry, x, out: carry, None)
    caches = []
    for layers, blocks in runs:
        graphdef, state = nnx.split(blocks)

        def body(carry, layer, graphdef=graphdef):
            x, seen = carry
            state, cache = layer
            out = nnx.merge(graphdef, state)(x, cache=cache, **options)
            return (out.x, see(seen, x, out)), out.cache

        body = jax.checkpoint(body) if remat else body
        mine = cache if len(runs) == 1 else jax.tree.map(lambda x: x[layers], cache)  # noqa: B023
        (x, carry), new = jax.lax.scan(body, (x, carry), (state, mine))
        caches.append(new)
    return x, join_runs(caches), carry


def join_runs(parts: Sequence[Any]) -> Any:
    """Return what the layers of all runs made, stacked along the leading axis."""
    if len(parts) == 1:
        return parts[0]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
