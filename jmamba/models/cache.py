"""What a language model remembers, and whether it fits a call that goes on from it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from jmamba.layers.room import add_room, change_room
from jmamba.models.texts import Texts
from jmamba.types import (
    AttentionCache,
    ByRun,
    LayerCache,
    ParallelCache,
    SeenTokens,
    exportable,
)


@exportable
class GenerationCache(NamedTuple):
    """All that a generation needs to go on, of each row.

    Attributes:
      layers: what the layers remember of the prompt and of all new tokens.
      logits: of the token that comes next, in float32.
      running: rows that have not stopped.
      seen: tokens of the vocabulary that a row holds, for the repetition penalty.
      step: tokens drawn since the prompt, with which keys go on.
      tokens: the newest tokens, of the last call; row i holds `lengths[i]` of them.
      lengths: their number.
    """

    layers: Any
    logits: Float[Array, "b v"]
    running: Bool[Array, "b"]
    seen: Bool[Array, "b v"]
    step: Int[Array, ""]
    tokens: Int[Array, "b t"]
    lengths: Int[Array, "b"]


_LETTERS = {
    "conv_state": "sbd_",
    "ssm_state": "sbdn",
    "length": "sb",
    "first": "sb",
    "keys": "sb___",
    "values": "sb___",
}
"""Field of a layer's cache -> letters of its axes."""


def cache_letters(model: Any) -> Any:
    """Return the letters of what a model's layers remember, for `keep_places`."""
    like = jax.eval_shape(lambda: model.empty_cache(1))
    return jax.tree.map_with_path(lambda keys, x: _LETTERS[keys[-1].name], like)


def generation_letters(model: Any) -> GenerationCache:
    """Return the letters of what a generation needs to go on, for `keep_places`."""
    letters: Any = (cache_letters(model), "bv", "b", "bv", "", "bt", "b")
    return GenerationCache(*letters)


ROOM = 64
"""Places for tokens that are made together, so that few programs are compiled."""


def fit_room(layers: Any, count: int) -> Any:
    """Return a cache with places for so many more tokens, and few others.

    Inside of a transformation, where nobody knows how many are taken, with `count` more
    than there are.

    Args:
      layers: what the layers remember.
      count: tokens that come next.
    """
    nodes = jax.tree.leaves(layers, is_leaf=lambda x: isinstance(x, SeenTokens))
    lengths = [node.length for node in nodes if isinstance(node, SeenTokens)]
    if not lengths:
        return layers
    if any(isinstance(x, Tracer) for x in lengths):
        return add_room(layers, count)
    needed = max(int(np.max(x)) for x in lengths) + count
    return change_room(layers, lambda room: -(-needed // ROOM) * ROOM)


def open_cache(model: Any, cache: Any, texts: Texts) -> Any:
    """Return what the layers remember, or raise unless it fits a model and its texts.

    It has room for the texts where layers remember every token.

    Args:
      model: a language model.
      cache: what a call on earlier tokens returned, or the cache in it, or None.
      texts: what is to be read now.

    Raises:
      TypeError: it is no cache.
      ValueError: it is of other rows or of another model, or the tokens are those that
        it has seen last.
    """
    if cache is None:
        return None
    cache = getattr(cache, "cache", cache)
    if isinstance(cache, GenerationCache):
        _check_not_again(cache, texts)
    layers = check_cache(model, getattr(cache, "layers", cache), texts.shape[0])
    return fit_room(layers, texts.shape[1])


def check_cache(model: Any, layers: Any, batch: int) -> Any:
    """Return a cache, or raise unless it is of a model and has a number of rows.

    Raises:
      TypeError: it is no cache.
      ValueError: it is of other rows or of another model.
    """
    needed = _needed(model, batch)
    if jax.tree.structure(layers) != jax.tree.structure(needed):
        if isinstance(layers, LayerCache | AttentionCache | ParallelCache | ByRun):
            raise ValueError(
                f"the cache is of another model: it is a {type(layers).__name__} of "
                f"other layers than the {model.config.num_layers} of this one. Give a "
                "cache that this model returned."
            )
        raise TypeError(
            f"cache is a {type(layers).__name__}, but must be what an earlier call "
            "returned: out = model(tokens), then model(more, cache=out.cache)."
        )
    pairs = list(zip(jax.tree.leaves(layers), jax.tree.leaves(needed), strict=True))
    rows = {x.shape[1] for x, _ in pairs if jnp.ndim(x) > 1}
    if len(rows) == 1 and rows != {batch}:
        raise ValueError(
            f"the cache holds {rows.pop()} rows, but tokens have {batch}. Give one row "
            "of tokens for each row of the cache."
        )
    if not all(_is_like(jnp.shape(x), like.shape) for x, like in pairs):
        found = ", ".join(str(jnp.shape(x)) for x, _ in pairs)
        wanted = ", ".join(str(like.shape) for _, like in pairs)
        raise ValueError(
            f"the cache is of another model: it holds {found}, but this one of "
            f"{model.config.num_layers} layers needs {wanted}. Give a cache that this "
            "model returned."
        )
    return jax.tree.map(jnp.asarray, layers)


def _is_like(shape: tuple[int, ...], needed: tuple[int, ...]) -> bool:
    """Say whether a shape is the needed one, 0 standing for any number of tokens."""
    return len(shape) == len(needed) and all(
        n in (0, m) for m, n in zip(shape, needed, strict=True)
    )


_NEEDED: dict[tuple, Any] = {}


def _needed(model: Any, batch: int) -> Any:
    """Return shapes and dtypes of a model's cache, worked out once: steps are short."""
    key = type(model), model.config, jnp.dtype(model.dtype), batch
    if key not in _NEEDED:
        _NEEDED[key] = jax.eval_shape(lambda: model.empty_cache(batch))
    return _NEEDED[key]


def _check_not_again(cache: GenerationCache, texts: Texts) -> None:
    """Raise if the texts end as the newest tokens do, which would double these."""
    tokens = texts.tokens
    leaves = jax.tree.leaves((tokens, texts.attention_mask, cache.tokens))
    if tokens is None or any(isinstance(x, Tracer) for x in leaves):
        return
    rows = zip(np.asarray(tokens), np.asarray(texts.mask), strict=True)
    given = [row[is_token] for row, is_token in rows]
    lengths, running = np.asarray(cache.lengths), np.asarray(cache.running)
    newest = [row[:n] for row, n in zip(np.asarray(cache.tokens), lengths, strict=True)]
    if len(given) != len(newest):
        return  # other rows, which `check_cache` tells
    asked = np.flatnonzero(running if running.any() else lengths > 0)
    if asked.size and all(_end_alike(given[i], newest[i]) for i in asked):
        raise ValueError(
            f"tokens {np.asarray(tokens).tolist()} are the last ones that the cache "
            "has seen, and would be there twice. To go on without new tokens type "
            "generate(model, None, cache=...); if they are to come twice, give the "
            "layers of the cache alone, cache=generated.cache.layers."
        )


def _end_alike(x: np.ndarray, y: np.ndarray) -> bool:
    shared = min(len(x), len(y))
    return shared > 0 and np.array_equal(x[-shared:], y[-shared:])
