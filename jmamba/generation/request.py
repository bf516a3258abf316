"""What is asked of a generation, checked before any work is done."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from jmamba.generation.sampling import Sampling
from jmamba.models.cache import GenerationCache, check_cache, fit_room, open_cache
from jmamba.models.texts import Texts, read_texts
from jmamba.requests import as_key


class Request(NamedTuple):
    """Everything that a compiled generation takes besides the model.

    Attributes:
      texts: prompts; None to go on from `start`.
      start: what a generation without prompts goes on from.
      layers: what the layers remember before the prompts.
      seen: tokens that rows hold before the prompts; None for none.
      settings: of the sampling.
      key: of the draws; None for greedy ones.
      first_step: tokens that were drawn before, with the same key.
      stop_tokens: ids that end a row.
      pad_token: fills a row behind its end.
      listener: number of the callback.
    """

    texts: Texts | None
    start: GenerationCache | None
    layers: Any
    seen: Array | None
    settings: dict[str, Array]
    key: Array | None
    first_step: Array
    stop_tokens: Array
    pad_token: Array
    listener: Array | None = None

    @staticmethod
    def begin(layers: Any, logits: Array, seen: Array) -> GenerationCache:
        """Return the cache of rows of which no token is drawn yet."""
        batch = logits.shape[0]
        return GenerationCache(
            layers=layers,
            logits=logits,
            running=jnp.ones((batch,), bool),
            seen=seen,
            step=jnp.asarray(0, jnp.int32),
            tokens=jnp.zeros((batch, 0), jnp.int32),
            lengths=jnp.zeros((batch,), jnp.int32),
        )


def is_traced(*values: Any) -> bool:
    """Say whether a value is not known yet, inside of jit, grad or vmap."""
    return any(isinstance(x, Tracer) for x in jax.tree.leaves(values))


def make_request(
    model: Any,
    tokens: Any,
    *,
    inputs_embeds: Any,
    attention_mask: Any,
    max_new_tokens: int,
    sampling: Sampling,
    stop_tokens: Sequence[int] | None,
    key: Any,
    pad_token: int,
    cache: Any,
    is_heard: bool,
) -> Request:
    """Check the arguments of `generate` and return them as arrays.

    Args:
      model: the language model.
      tokens, inputs_embeds, attention_mask, max_new_tokens, sampling, stop_tokens, key,
        pad_token, cache: as in `generate`.
      is_heard: whether the host is told each token.

    Raises:
      TypeError: an argument is of the wrong kind.
      ValueError: the prompt or a setting cannot be used.
    """
    config = model.config
    texts = start = layers = seen = None
    if tokens is None and inputs_embeds is None:
        start = _go_on(model, cache, attention_mask)
    else:
        texts = read_texts(
            config, tokens, inputs_embeds=inputs_embeds, attention_mask=attention_mask
        )
        _check_rows(texts)
        layers = open_cache(model, cache, texts)
        seen = getattr(getattr(cache, "cache", cache), "seen", None)
    if is_heard and is_traced(texts, start):
        raise ValueError(
            "generate: callback cannot be used inside jit, grad or vmap, and neither "
            "can stop_strings. Call generate directly (it is compiled already), or "
            "leave them out; stop_tokens work everywhere."
        )
    stops = _stop_tokens(config, stop_tokens)
    _check_settings(config, max_new_tokens, sampling, key)
    return Request(
        texts=texts,
        start=start,
        layers=layers,
        seen=seen,
        settings=sampling.settings(),
        key=as_key(key, "generate") if sampling.temperature > 0 else None,
        first_step=jnp.asarray(0, jnp.int32) if start is None else start.step,
        stop_tokens=jnp.asarray(stops, jnp.int32).reshape(-1),
        pad_token=jnp.asarray(pad_token, jnp.int32),
    )


def _go_on(model: Any, cache: Any, attention_mask: Any) -> GenerationCache:
    """Return what a generation without new tokens goes on from."""
    if cache is None:
        raise ValueError(
            "generate: there are no tokens to continue. Give a prompt, "
            "generate(model, tokens, ...), or what an earlier generation returned, "
            "generate(model, None, cache=generated, ...)."
        )
    if attention_mask is not None:
        raise ValueError(
            "generate: attention_mask says which tokens are padding, but there are no "
            "tokens; leave it out."
        )
    found = getattr(cache, "cache", cache)
    if isinstance(found, GenerationCache):
        layers = check_cache(model, found.layers, found.logits.shape[0])
        return found._replace(layers=fit_room(layers, 0))
    logits = getattr(cache, "logits", None)
    if logits is None:
        raise ValueError(
            "generate: a cache of layers alone does not say which token comes next. "
            "Give tokens, or the whole output that it came with: "
            "generate(model, None, cache=model(tokens), ...)."
        )
    batch = logits.shape[0]
    seen = jnp.zeros((batch, model.config.vocab_size), bool)
    return Request.begin(check_cache(model, found, batch), logits[:, -1], seen)


def _check_rows(texts: Texts) -> None:
    """Raise unless every row holds a token."""
    mask = texts.attention_mask
    if mask is None or isinstance(mask, Tracer):
        return
    empty = np.flatnonzero(~np.any(np.asarray(mask), axis=1))
    if empty.size:
        raise ValueError(
            f"generate: rows {empty.tolist()} of attention_mask are all zero, so "
            "their prompts are empty. Leave them out, or give each one token to "
            "begin with, such as the end-of-text id."
        )


def _stop_tokens(config: Any, stop_tokens: Sequence[int] | None) -> np.ndarray:
    """Return the ids that end a row, or raise unless they are in the vocabulary."""
    v = config.vocab_size
    if stop_tokens is None:  # ids beyond the vocabulary never come
        stop_tokens = [i for i in config.end_tokens if i < v]
    stops = np.asarray(stop_tokens, None if np.size(stop_tokens) else np.int32)
    if not np.issubdtype(stops.dtype, np.integer) or np.any((stops < 0) | (stops >= v)):
        raise ValueError(
            f"generate: stop_tokens must be token ids in [0, {v}), but are "
            f"{stop_tokens!r}. For a text give stop_strings and tokenizer; give () to "
            "stop at no token."
        )
    return stops


def _check_settings(config: Any, max_new_tokens: Any, sampling: Any, key: Any) -> None:
    """Raise unless the settings fit together and to the vocabulary."""
    is_int = isinstance(max_new_tokens, int | np.integer)
    if (
        not is_int
        or isinstance(max_new_tokens, bool)
        or not (
            1 <= max_new_tokens < 2**31  # steps are counted in int32
        )
    ):
        raise ValueError(
            f"generate: max_new_tokens must be an integer below 2**31 and at least 1, "
            f"but is {max_new_tokens!r}. For the prompt's logits alone call "
            "model(tokens)."
        )
    if not isinstance(sampling, Sampling):
        raise TypeError(
            f"generate: sampling must be a Sampling, but is {sampling!r}. Give for "
            "example sampling=Sampling(temperature=0.8, top_p=0.95)."
        )
    v = config.unpadded_vocab_size or config.vocab_size
    if sampling.top_k is not None and sampling.top_k > v:
        raise ValueError(
            f"generate: top_k is {sampling.top_k}, but the vocabulary has {v} tokens. "
            f"Give top_k={v} or less, or None to draw among all tokens."
        )
    if sampling.temperature > 0 and key is None:
        raise ValueError(
            f"generate: temperature {sampling.temperature} draws tokens at random and "
            f"needs a key. Add key=jax.random.key(0)."
        )
