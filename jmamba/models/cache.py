"""What a language model remembers, and whether it fits a call that goes on from it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from jmamba.models.texts import Texts
from jmamba.types import LayerCache, exportable


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

    layers: LayerCache
    logits: Float[Array, "b v"]
    running: Bool[Array, "b"]
    seen: Bool[Array, "b v"]
    step: Int[Array, ""]
    tokens: Int[Array, "b t"]
    lengths: Int[Array, "b"]


_LETTERS: Any = ("sbd_", "sbdn")
CACHE_AXES = LayerCache(*_LETTERS)
_LETTERS = (CACHE_AXES, "bv", "b", "bv", "", "bt", "b")
GENERATION_AXES = GenerationCache(*_LETTERS)
"""Letters of the caches, for `keep_places`."""


def open_cache(model: Any, cache: Any, texts: Texts) -> LayerCache | None:
    """Return what the layers remember, or raise unless it fits a model and its texts.

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
    return check_cache(model, getattr(cache, "layers", cache), texts.shape[0])


def check_cache(model: Any, layers: Any, batch: int) -> LayerCache:
    """Return a cache, or raise unless it is of a model and has a number of rows.

    Raises:
      TypeError: it is no cache.
      ValueError: it is of other rows or of another model.
    """
    needed = _needed(model, batch)
    if jax.tree.structure(layers) != jax.tree.structure(needed):
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
    if any(jnp.shape(x) != like.shape for x, like in pairs):
        found = ", ".join(str(jnp.shape(x)) for x, _ in pairs)
        wanted = ", ".join(str(like.shape) for _, like in pairs)
        raise ValueError(
            f"the cache is of another model: it holds {found}, but this one of "
            f"{model.config.num_layers} layers needs {wanted}. Give a cache that this "
            "model returned."
        )
    return jax.tree.map(jnp.asarray, layers)


_NEEDED: dict[tuple, LayerCache] = {}


def _needed(model: Any, batch: int) -> LayerCache:
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
