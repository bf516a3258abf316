"""Generation of tokens: prefill and decoding loop, compiled as one program."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Bool, Int

from jmamba.generation.sampling import Sampling, draw
from jmamba.generation.streaming import Callback, deliver, listening
from jmamba.models.language_model import (
    CACHE_AXES,
    LanguageModel,
    check_tokens,
    compact,
    parameter_axes,
)
from jmamba.ops.sharding import keep_places
from jmamba.types import LayerCache, Tokens


class Generated(NamedTuple):
    """What `generate` returns.

    `tokens` are the new ones only; row i holds `lengths[i]` of them, its stop token
    included, then padding. `cache` has seen the prompt and the new tokens of each row:
    pass it with the next tokens of a dialogue to go on.
    """

    tokens: Int[Array, "b t"]
    lengths: Int[Array, "b"]
    cache: LayerCache


def generate(
    model: LanguageModel,
    tokens: Tokens,
    *,
    max_new_tokens: int,
    attention_mask: Bool[Array, "b l"] | Int[Array, "b l"] | None = None,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    stop_tokens: Sequence[int] | None = None,
    key: Array | None = None,
    callback: Callback | None = None,
    pad_token: int = 0,
    cache: LayerCache | None = None,
) -> Generated:
    """Continue each row of tokens, until a stop token or `max_new_tokens`.

    Prefill and the loop over new tokens are one compiled program, which ends early when
    all rows have stopped. Another value of a sampling setting compiles nothing anew;
    another shape, `max_new_tokens` or set of settings that are switched on does.

    Args:
      model: the language model.
      tokens: prompts.
      max_new_tokens: most tokens to generate per row.
      attention_mask: 1 where a prompt token is, 0 where padding is, on any side: each
        row gets what it gets alone.
      sampling: how tokens are drawn; greedy by default.
      stop_tokens: ids that end a row; None for the configuration's end-of-text id, ()
        for none.
      key: `jax.random.key(seed)`; needed when the temperature is above 0.
      callback: called on the host as callback(tokens, running) with arrays of shape
        (b,) for each new token, in order; `tokens[i]` is padding where row i is not
        running any more. An exception in it ends the generation and is raised here.
      pad_token: fills a row after its stop token; any integer.
      cache: what a call on earlier tokens returned; this call continues from there. The
        repetition penalty knows only this call's tokens.

    Returns:
      New tokens, their number per row, and the cache.

    Raises:
      ValueError: the prompt or a setting cannot be used; the message says why.

    Examples:
      >>> from jmamba import MambaConfig, MambaLM
      >>> config = MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = MambaLM(config, rngs=nnx.Rngs(0))
      >>> prompt = jnp.array([list(b"hello")])
      >>> new = generate(model, prompt, max_new_tokens=4)
      >>> new.tokens.shape, new.lengths.tolist()
      ((1, 4), [4])
      >>> warm = Sampling(temperature=0.8, top_k=40)
      >>> new = generate(model, prompt, max_new_tokens=4, sampling=warm,
      ...                key=jax.random.key(0))
      >>> int(new.tokens.max()) < 256
      True
    """
    config = model.config
    if stop_tokens is None:
        stop_tokens = () if config.eos_token_id is None else (config.eos_token_id,)
    check_tokens(tokens, config.vocab_size, attention_mask)
    _check_prompt(tokens, attention_mask, callback, cache)
    _check_settings(config, max_new_tokens, sampling, stop_tokens, key)
    graphdef, state = nnx.split(model)
    request = _Request(
        jnp.asarray(tokens),
        None if attention_mask is None else jnp.asarray(attention_mask),
        cache,
        sampling.settings(),
        key if sampling.temperature > 0 else None,
        jnp.asarray(stop_tokens, jnp.int32).reshape(-1),
        jnp.asarray(pad_token, jnp.int32),
    )
    run = partial(_generate, graphdef, state, max_new_tokens=int(max_new_tokens))
    if callback is None:
        return run(request)
    with listening(callback) as number:
        return jax.block_until_ready(run(request._replace(listener=jnp.int32(number))))


class _Request(NamedTuple):
    """Everything that a compiled generation takes besides the model."""

    tokens: Array
    attention_mask: Array | None
    cache: LayerCache | None
    settings: dict[str, Array]
    key: Array | None
    stop_tokens: Array
    pad_token: Array
    listener: Array | None = None


class _Loop(NamedTuple):
    """The decoding loop's carry: what the next token depends on, and the tokens so far.

    `seen` is None unless repetitions are penalized; `wanted` turns false when the host
    callback has failed.
    """

    step: Array
    logits: Array
    cache: LayerCache
    seen: Array | None
    running: Array
    wanted: Array
    tokens: Array
    lengths: Array


@partial(jax.jit, static_argnames=("graphdef", "max_new_tokens"))
def _generate(graphdef, state, request: _Request, *, max_new_tokens):
    cache_axes: Any = "" if request.cache is None else CACHE_AXES
    request_axes: Any = _Request("bl", "bl", cache_axes, *[""] * 5)  # type: ignore
    out_axes: Any = Generated("bt", "b", CACHE_AXES)  # type: ignore
    return keep_places(
        partial(_continue, graphdef, max_new_tokens),
        (request, state),
        (request_axes, parameter_axes(state)),
        out_axes,
    )


def _continue(graphdef, max_new_tokens, request: _Request, state) -> Generated:
    model = nnx.merge(graphdef, state)
    loop = jax.lax.while_loop(
        lambda loop: (loop.step < max_new_tokens) & jnp.any(loop.running) & loop.wanted,
        partial(_step, model, request),
        _start(model, request, max_new_tokens),
    )
    return Generated(loop.tokens, loop.lengths, loop.cache)


def _start(model, request: _Request, max_new_tokens) -> _Loop:
    """Run the model over the prompts; unembed only the last token of each."""
    tokens, mask = request.tokens, request.attention_mask
    batch, lengths = tokens.shape[0], None
    real = jnp.ones(tokens.shape, bool) if mask is None else mask.astype(bool)
    seen = None
    if "repetition_penalty" in request.settings:
        seen = jnp.zeros((batch, model.config.vocab_size), bool)
        seen = seen.at[jnp.arange(batch)[:, None], tokens].max(real)
    if mask is not None:
        order, lengths, _ = compact(mask)
        tokens = jnp.take_along_axis(tokens, order, axis=1)
    x, cache, *_ = model.run_layers(
        model.embed(tokens), cache=request.cache, lengths=lengths
    )
    if lengths is None:
        last = x[:, -1]
    else:
        last = jnp.take_along_axis(x, lengths[:, None, None] - 1, axis=1)[:, 0]
    return _Loop(
        step=jnp.asarray(0, jnp.int32),
        logits=model.unembed(last),
        cache=cache,
        seen=seen,
        running=jnp.ones((batch,), bool),
        wanted=jnp.asarray(True),
        tokens=jnp.full((batch, max_new_tokens), request.pad_token),
        lengths=jnp.zeros((batch,), jnp.int32),
    )


def _step(model, request: _Request, loop: _Loop) -> _Loop:
    """Draw one token per row and run the model over it.

    A row that has stopped gets an empty sequence, which leaves its cache as it is.
    """
    key, running = request.key, loop.running
    if key is not None:
        key = jax.random.fold_in(key, loop.step)
    token = draw(loop.logits, loop.seen, request.settings, key)
    shown = jnp.where(running, token, request.pad_token)
    wanted = loop.wanted
    if request.listener is not None:
        wanted = deliver(request.listener, shown, running)
    seen = loop.seen
    if seen is not None:
        seen = seen.at[jnp.arange(token.shape[0]), token].max(running)
    x, cache, *_ = model.run_layers(
        model.embed(token[:, None]), cache=loop.cache, lengths=running.astype(jnp.int32)
    )
    return _Loop(
        step=loop.step + 1,
        logits=model.unembed(x[:, 0]),
        cache=cache,
        seen=seen,
        running=running & ~jnp.isin(token, request.stop_tokens),
        wanted=wanted,
        tokens=jax.lax.dynamic_update_index_in_dim(loop.tokens, shown, loop.step, 1),
        lengths=loop.lengths + running.astype(jnp.int32),
    )


# Checks -------------------------------------------------------------------------------


def _check_prompt(tokens, attention_mask, callback, cache) -> None:
    """Raise unless every row holds a token and the cache has as many rows."""
    if attention_mask is not None and not isinstance(attention_mask, Tracer):
        empty = np.flatnonzero(~np.any(np.asarray(attention_mask), axis=1))
        if empty.size:
            raise ValueError(
                f"generate: rows {empty.tolist()} of attention_mask are all zero, so "
                f"their prompts are empty. Leave them out, or give each one token to "
                f"begin with, such as the end-of-text id."
            )
    if callback is not None and isinstance(tokens, Tracer):
        raise ValueError(
            "generate: callback cannot be used inside jit, grad or vmap. Call generate "
            "directly (it is compiled already), or leave callback out."
        )
    batch = jnp.shape(tokens)[0]
    rows = batch if cache is None else jax.tree.leaves(cache)[0].shape[1]
    if rows != batch:
        raise ValueError(
            f"generate: the cache holds {rows} rows, but tokens have {batch}. Give one "
            f"row of tokens for each row of the cache."
        )


def _check_settings(config, max_new_tokens, sampling, stop_tokens, key) -> None:
    """Raise unless the settings fit together and to the vocabulary."""
    if not isinstance(max_new_tokens, int | np.integer) or max_new_tokens < 1:
        raise ValueError(
            f"generate: max_new_tokens must be an integer of at least 1, but is "
            f"{max_new_tokens!r}. For the prompt's logits alone call model(tokens)."
        )
    v = config.vocab_size
    if sampling.top_k is not None and sampling.top_k > v:
        raise ValueError(
            f"generate: top_k is {sampling.top_k}, but the vocabulary has {v} tokens. "
            f"Give top_k={v} or less, or None to draw among all tokens."
        )
    stops = np.asarray(stop_tokens, None if np.size(stop_tokens) else np.int32)
    if not np.issubdtype(stops.dtype, np.integer) or np.any((stops < 0) | (stops >= v)):
        raise ValueError(
            f"generate: stop_tokens must be token ids in [0, {v}), but are "
            f"{stop_tokens!r}. Encode a text with the tokenizer first; give () to stop "
            f"at no token."
        )
    if sampling.temperature > 0 and key is None:
        raise ValueError(
            f"generate: temperature {sampling.temperature} draws tokens at random and "
            f"needs a key. Add key=jax.random.key(0)."
        )
