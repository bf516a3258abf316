"""Generation of tokens: prefill and decoding loop, compiled as one program."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.generation.guessing import decode_guessing
from jmamba.generation.hints import check_names
from jmamba.generation.lookup import Lookup, check_lookup
from jmamba.generation.overflow import check_overflow
from jmamba.generation.request import Request, is_traced, make_request
from jmamba.generation.sampling import Sampling, draw, hide_padding
from jmamba.generation.stopping import make_stop
from jmamba.generation.streaming import Callback, deliver, listening
from jmamba.layers.letters import shared_letters
from jmamba.layers.room import add_room
from jmamba.models.cache import GenerationCache, cache_letters, generation_letters
from jmamba.models.language_model import LanguageModel
from jmamba.models.texts import TEXT_AXES, compact
from jmamba.ops.sharding import keep_places
from jmamba.types import ArrayLike, KeyLike, Tokens, exportable


@exportable
class Generated(NamedTuple):
    """What `generate` returns.

    `tokens` are the new ones only; row i holds `lengths[i]` of them, its stop token
    included, then padding. `cache` has seen the prompt and the new tokens of each row:
    `generate(model, None, cache=generated, ...)` goes on where rows had not stopped,
    and with the next tokens of a dialogue in the place of None all rows do.
    """

    tokens: Int[Array, "b t"]
    lengths: Int[Array, "b"]
    cache: GenerationCache

    def __repr__(self) -> str:
        """Return how many tokens there are, without the cache's numbers."""
        if not isinstance(self.lengths, Array) or is_traced(self.lengths):
            return tuple.__repr__(self)  # a pytree of this form
        counts = np.asarray(self.lengths).tolist()
        return f"Generated(tokens of {len(counts)} rows: {counts})"


def generate(
    model: LanguageModel,
    tokens: Tokens | ArrayLike | None = None,
    *,
    max_new_tokens: int,
    inputs_embeds: Float[Array, "b l m"] | ArrayLike | None = None,
    attention_mask: Int[Array, "b l"] | ArrayLike | None = None,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    stop_tokens: Sequence[int] | None = None,
    stop_strings: str | Sequence[str] = (),
    tokenizer: Any = None,
    key: KeyLike | None = None,
    callback: Callback | None = None,
    pad_token: int = 0,
    cache: Generated | GenerationCache | Any = None,
    lookup: Lookup | None = None,
    **others: Any,
) -> Generated:
    """Continue each row of tokens, until it stops or `max_new_tokens`.

    Prefill and the loop over new tokens are one compiled program, which ends early when
    all rows have stopped. Another value of a sampling setting compiles nothing anew;
    another shape, `max_new_tokens` or set of settings that are switched on does.

    Args:
      model: the language model.
      tokens: prompts; None to go on from a cache without new ones.
      max_new_tokens: most tokens to generate per row.
      inputs_embeds: embeddings in place of prompts.
      attention_mask: 1 where a prompt token is, 0 where padding is, on any side: each
        row gets what it gets alone.
      sampling: how tokens are drawn; greedy by default.
      stop_tokens: ids that end a row; None for the configuration's end tokens, ()
        for none.
      stop_strings: texts that end a row once it contains one; it keeps their tokens.
      tokenizer: what decodes tokens for them, by `tokenizer.decode(ids)`.
      key: `jax.random.key(seed)` or the seed; needed when the temperature is above 0.
      callback: called on the host as callback(tokens, running) with arrays of shape
        (b,) for each new token, in order; `tokens[i]` is padding where row i is not
        running any more. An exception in it ends the generation and is raised here.
      pad_token: fills a row after its stop token; any integer.
      cache: what this function or a call of the model on earlier tokens returned, or
        the cache in it; this call continues from there. With None for tokens the same
        settings and key give what one longer generation gives. The repetition penalty
        knows the tokens of this call, and those of the generations before it.
      lookup: how tokens are guessed from the text before them, several at once: faster
        where texts repeat themselves, the same but for rounded ties (docs/lookup.md).
      **others: none; names of other libraries raise an error that says ours.

    Returns:
      New tokens, their number per row, and the cache.

    Raises:
      TypeError: an argument is of the wrong kind, such as a text for tokens.
      ValueError: the prompt or a setting cannot be used; the message says why.
      FloatingPointError: the model's numbers overflow; the message says in which layer.
        Inside jit, where nothing can be raised, the row ends there.

    Examples:
      >>> from jmamba import MambaConfig, MambaLM
      >>> config = MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = MambaLM(config, rngs=nnx.Rngs(0))
      >>> prompt = [list(b"hello")]
      >>> new = generate(model, prompt, max_new_tokens=4)
      >>> new.tokens.shape, new.lengths.tolist()
      ((1, 4), [4])
      >>> more = generate(model, None, cache=new, max_new_tokens=4)
      >>> whole = generate(model, prompt, max_new_tokens=8).tokens
      >>> bool(jnp.all(jnp.concatenate([new.tokens, more.tokens], axis=1) == whole))
      True
      >>> warm = Sampling(temperature=0.8, top_k=40)
      >>> new = generate(model, prompt, max_new_tokens=4, sampling=warm, key=0)
      >>> int(new.tokens.max()) < 256
      True
    """
    check_names(others)
    request = make_request(
        model,
        tokens,
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop_tokens=stop_tokens,
        key=key,
        pad_token=pad_token,
        cache=cache,
        is_heard=callback is not None or bool(stop_strings),
    )
    stop = make_stop(stop_strings, tokenizer, request)
    graphdef, state = nnx.split(model)
    check_lookup(lookup, request)
    options = {"max_new_tokens": int(max_new_tokens), "lookup": lookup}
    run = partial(_generate, graphdef, state, **options)
    if callback is None and stop is None:
        out, has_overflowed, _ = run(request)
    else:
        with listening(callback, stop) as number:
            listener = jnp.asarray(number, jnp.int32)
            out, has_overflowed, _ = run(request._replace(listener=listener))
            jax.block_until_ready(out)
    if not is_traced(has_overflowed):
        check_overflow(model, request, out, np.asarray(has_overflowed))
    return out


class _Loop(NamedTuple):
    """The decoding loop's carry: what the next token depends on, and the tokens so far.

    `step` counts the tokens of this call.
    """

    step: Array
    logits: Array
    layers: Any
    seen: Array
    running: Array
    tokens: Array
    lengths: Array


@partial(jax.jit, static_argnames=("graphdef", "max_new_tokens", "lookup"))
def _generate(graphdef, state, request: Request, *, max_new_tokens, lookup=None):
    """Return what was generated, which rows had no finite logits, and the passes."""
    model = nnx.merge(graphdef, state)
    out_axes: Any = (Generated("bt", "b", generation_letters(model)), "b", "")  # type: ignore
    return keep_places(
        partial(_continue, graphdef, max_new_tokens, lookup),
        (request, state),
        (_request_axes(model, request), shared_letters(model)),
        out_axes,
    )


def _request_axes(model, request: Request) -> Any:
    """Return the letters of a request, for `keep_places`."""

    def axes(value, letters) -> Any:
        return "" if value is None else letters

    return Request(
        texts=axes(request.texts, TEXT_AXES),
        start=axes(request.start, generation_letters(model)),
        layers=axes(request.layers, cache_letters(model)),
        seen="bv",  # type: ignore
        **dict.fromkeys(Request._fields[4:], ""),  # type: ignore
    )


def _continue(graphdef, max_new_tokens, lookup, request: Request, state):
    model = nnx.merge(graphdef, state)
    loop = _start(model, request, max_new_tokens)
    if lookup is None:
        loop = jax.lax.while_loop(
            lambda loop: (
                (loop.step < max_new_tokens)
                & jnp.any(loop.running)
                & ~jnp.any(_has_overflowed(model, loop))
            ),
            partial(_step, model, request),
            loop,
        )
        passes = loop.step
    else:
        loop, passes = decode_guessing(model, request, loop, lookup)
    cache = GenerationCache(
        layers=loop.layers,
        logits=loop.logits,
        running=loop.running,
        seen=loop.seen,
        step=request.first_step + loop.step,
        tokens=loop.tokens,
        lengths=loop.lengths,
    )
    has_overflowed = _has_overflowed(model, loop) & (loop.lengths < max_new_tokens)
    return Generated(loop.tokens, loop.lengths, cache), has_overflowed, passes


def _has_overflowed(model, loop: _Loop) -> Array:
    logits = loop.logits[:, : model.config.unpadded_vocab_size]
    return loop.running & ~jnp.all(jnp.isfinite(logits), axis=1)


def _start(model, request: Request, max_new_tokens) -> _Loop:
    """Run the model over the prompts; unembed only the last token of each."""
    found = request.start or _read_prompts(model, request)
    batch = found.logits.shape[0]
    return _Loop(
        step=jnp.asarray(0, jnp.int32),
        logits=found.logits,
        layers=add_room(found.layers, max_new_tokens),
        seen=found.seen,
        running=found.running,
        tokens=jnp.full((batch, max_new_tokens), request.pad_token),
        lengths=jnp.zeros((batch,), jnp.int32),
    )


def _read_prompts(model, request: Request) -> GenerationCache:
    texts = request.texts
    assert texts is not None
    batch, lengths = texts.shape[0], None
    seen = request.seen
    if seen is None:
        seen = jnp.zeros((batch, model.config.vocab_size), bool)
    if texts.tokens is not None:
        rows = jnp.arange(batch)[:, None]
        seen = seen.at[rows, texts.tokens].max(texts.mask)
    x = model.embed_texts(texts)
    if texts.attention_mask is not None:
        order, lengths, _ = compact(texts.attention_mask)
        x = jnp.take_along_axis(x, order[:, :, None], axis=1)
    passed = model.run_layers(x, cache=request.layers, lengths=lengths)
    if lengths is None:
        last = passed.x[:, -1]
    else:
        last = jnp.take_along_axis(passed.x, lengths[:, None, None] - 1, axis=1)[:, 0]
    return request.begin(passed.cache, model.unembed(last), seen)


def _step(model, request: Request, loop: _Loop) -> _Loop:
    """Draw one token per row and run the model over it.

    A row that has stopped gets an empty sequence, which leaves its cache as it is.
    """
    key, running = request.key, loop.running
    if key is not None:
        key = jax.random.fold_in(key, request.first_step + loop.step)
    logits = hide_padding(loop.logits, model.config.unpadded_vocab_size)
    token = draw(logits, loop.seen, request.settings, key)
    shown = jnp.where(running, token, request.pad_token)
    goes_on = running
    if request.listener is not None:
        goes_on = deliver(request.listener, shown, running)
    passed = model.run_layers(
        model.embed(token[:, None]),
        cache=loop.layers,
        lengths=running.astype(jnp.int32),
    )
    new_logits = model.unembed(passed.x[:, 0])
    return _Loop(
        step=loop.step + 1,
        logits=jnp.where(running[:, None], new_logits, loop.logits),
        layers=passed.cache,
        seen=loop.seen.at[jnp.arange(token.shape[0]), token].max(running),
        running=goes_on & ~jnp.isin(token, request.stop_tokens),
        tokens=jax.lax.dynamic_update_index_in_dim(loop.tokens, shown, loop.step, 1),
        lengths=loop.lengths + running.astype(jnp.int32),
    )
