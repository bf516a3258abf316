"""Decoding in which several tokens are checked at once.

The model reads guesses in one pass, and those stay that it would have drawn itself.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmamba.generation.lookup import Lookup, guess_tokens
from jmamba.generation.request import Request
from jmamba.generation.sampling import draw, hide_padding
from jmamba.generation.streaming import deliver
from jmamba.layers.room import change_room
from jmamba.models.texts import Texts, compact


class _Guessing(NamedTuple):
    """What is handed from pass to pass.

    Attributes:
      loop: as in decoding without guesses; its layers have not read `pending`.
      pending: tokens that are drawn and not read yet, in the first places.
      num_pending: their number in each row.
      history: prompt and new tokens of each row, in the first places.
      filled: their number.
      passes: times that the model was run.
    """

    loop: Any
    pending: Int[Array, "b w"]
    num_pending: Int[Array, "b"]
    history: Int[Array, "b t"]
    filled: Int[Array, "b"]
    passes: Int[Array, ""]


def decode_guessing(
    model: Any, request: Request, loop: Any, lookup: Lookup
) -> tuple[Any, Int[Array, ""]]:
    """Decode with guesses; return the last loop, and how often the model was run.

    Each pass reads the tokens that the pass before found right, behind them guesses,
    and remembers the former: so a state at any token comes out of one pass, without
    states of all tokens, or a second pass over the weights.

    Args:
      model: the language model.
      request: what is asked for.
      loop: the decoding loop's carry before its first step.
      lookup: how tokens are guessed.
    """
    batch, count = loop.tokens.shape
    history, filled = _prompts(request, batch, count)
    room = lookup.width  # what is read beyond the last token needs places too
    guessing = _Guessing(
        loop._replace(layers=change_room(loop.layers, lambda n: n + room)),
        jnp.zeros((batch, lookup.width), jnp.int32),
        jnp.zeros((batch,), jnp.int32),
        history,
        filled,
        jnp.asarray(0, jnp.int32),
    )
    nothing = jnp.zeros((batch, 0), jnp.int32), jnp.zeros((batch,), jnp.int32)
    emit = partial(_emit, model, request)
    guessing = jax.lax.while_loop(
        lambda guessing: jnp.any(guessing.num_pending > 0),
        lambda guessing: emit(*_read(model, lookup, guessing)),
        emit(guessing, loop.logits[:, None], *nothing),
    )
    loop, layers = guessing.loop, guessing.loop.layers
    return (
        loop._replace(
            step=jnp.max(loop.lengths),
            layers=change_room(layers, lambda n: n - room),
        ),
        guessing.passes,
    )


def _prompts(request: Request, batch: int, count: int) -> tuple[Array, Array]:
    """Return what may be looked up of each row, with room for new tokens."""
    texts, start = request.texts, request.start
    if start is not None:
        tokens, filled = start.tokens, start.lengths
    else:
        assert texts is not None
        tokens, filled = _tokens_of(texts)
    tokens = jnp.asarray(tokens, jnp.int32)
    return jnp.pad(tokens, ((0, 0), (0, count))), filled.astype(jnp.int32)


def _tokens_of(texts: Texts) -> tuple[Array, Array]:
    batch, length = texts.shape
    if texts.tokens is None:
        return jnp.zeros((batch, 0), jnp.int32), jnp.zeros((batch,), jnp.int32)
    if texts.attention_mask is None:
        return texts.tokens, jnp.full((batch,), length)
    order, lengths, _ = compact(texts.attention_mask)
    return jnp.take_along_axis(texts.tokens, order, axis=1), lengths


def _read(
    model: Any, lookup: Lookup, guessing: _Guessing
) -> tuple[_Guessing, Float[Array, "b g v"], Int[Array, "b k"], Int[Array, "b"]]:
    """Run the model over what is pending and over guesses.

    Returns:
      What is handed on, with nothing pending; the logits after the last pending token
      and after each guess; the guesses, and their number in each row.
    """
    loop, pending, num_pending = guessing.loop, guessing.pending, guessing.num_pending
    guesses, found = guess_tokens(guessing.history, guessing.filled, lookup)
    goes_on = loop.running & (loop.lengths < loop.tokens.shape[1])
    num_guesses = jnp.where(found & goes_on, lookup.num_tokens, 0)
    behind = num_pending[:, None] + jnp.arange(lookup.num_tokens)[None]
    rows = jnp.arange(pending.shape[0])[:, None]
    chunk = pending.at[rows, behind].set(guesses, mode="drop")
    first = jnp.maximum(num_pending - 1, 0)[:, None]
    last = first + jnp.arange(lookup.num_tokens + 1)[None]

    def read_all(layers):
        passed = model.run_layers(
            model.embed(chunk), cache=layers, remember=num_pending
        )
        x = jnp.take_along_axis(passed.x, last[:, :, None], axis=1)
        return x, passed.cache

    def read_one(layers):
        passed = model.run_layers(
            model.embed(pending[:, :1]), cache=layers, lengths=num_pending
        )
        shape = (pending.shape[0], lookup.num_tokens + 1, passed.x.shape[2])
        return jnp.broadcast_to(passed.x, shape), passed.cache

    is_one = jnp.all((num_guesses == 0) & (num_pending <= 1))
    x, layers = jax.lax.cond(is_one, read_one, read_all, loop.layers)
    logits = model.unembed(x)
    read = (num_pending > 0)[:, None]
    loop = loop._replace(
        layers=layers, logits=jnp.where(read, logits[:, 0], loop.logits)
    )
    guessing = guessing._replace(loop=loop, passes=guessing.passes + 1)
    return guessing, logits, guesses, num_guesses


def _emit(
    model: Any,
    request: Request,
    guessing: _Guessing,
    logits: Float[Array, "b g v"],
    guesses: Int[Array, "b k"],
    num_guesses: Int[Array, "b"],
) -> _Guessing:
    """Draw a token, and one more for each guess that was right before it."""
    loop, size = guessing.loop, model.config.unpadded_vocab_size
    rows, most = jnp.arange(logits.shape[0]), loop.tokens.shape[1]
    seen, drawn, drawing = loop.seen, [], []
    goes_on = loop.running
    for i in range(logits.shape[1]):
        known = jnp.all(jnp.isfinite(logits[:, i, :size]), axis=1)
        goes_on = goes_on & known & (loop.lengths + i < most)
        token = draw(hide_padding(logits[:, i], size), seen, request.settings, None)
        seen = seen.at[rows, token].max(goes_on)
        drawn.append(token)
        drawing.append(goes_on)
        if i < guesses.shape[1]:
            is_end = jnp.isin(token, request.stop_tokens)
            goes_on &= (i < num_guesses) & (guesses[:, i] == token) & ~is_end
    tokens, new = jnp.stack(drawn, axis=1), jnp.stack(drawing, axis=1)
    running = loop.running
    if request.listener is not None:
        running, new = _tell(request.listener, request.pad_token, tokens, new, running)
        seen = loop.seen.at[rows[:, None], tokens].max(new)
    count = jnp.sum(new, axis=1, dtype=jnp.int32)
    newest = jnp.take_along_axis(tokens, jnp.maximum(count - 1, 0)[:, None], axis=1)
    is_end = (count > 0) & jnp.isin(newest[:, 0], request.stop_tokens)

    def put(array, start):
        place = start[:, None] + jnp.arange(tokens.shape[1])[None]
        place = jnp.where(new, place, array.shape[1])  # beyond the end: nowhere
        return array.at[rows[:, None], place].set(tokens, mode="drop")

    loop = loop._replace(
        seen=seen,
        running=running & ~is_end,
        tokens=put(loop.tokens, loop.lengths),
        lengths=loop.lengths + count,
    )
    return guessing._replace(
        loop=loop,
        pending=put(guessing.pending, jnp.zeros_like(count)),
        num_pending=count,
        history=put(guessing.history, guessing.filled),
        filled=guessing.filled + count,
    )


def _tell(listener: Array, pad_token: Array, tokens: Array, new: Array, running: Array):
    """Tell the host each token in order; return which rows go on, and what is new."""

    def tell(i, carry):
        running, new = carry
        speaks = new[:, i] & running
        shown = jnp.where(speaks, tokens[:, i], pad_token)
        stays = deliver(listener, shown, speaks) | ~speaks
        return running & stays, new.at[:, i].set(speaks)

    most = jnp.max(jnp.sum(new, axis=1))
    running, heard = jax.lax.fori_loop(0, most, tell, (running, new))
    return running, heard
