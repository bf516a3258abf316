"""What the prediction owes to each piece of the text: run the model without it.

Gradient times input says little here. A layer sees a token only through an RMS norm,
which takes out its length, so that the gradient is almost at right angles to the
embedding. Leaving a token out is exact, and needs no baseline.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from jmamba.figures.labels import Piece
from jmamba.models.text_model import TextModel
from jmamba.report.size import size_of
from jmamba.report.text.cost import choose_left_out

ROWS_BYTES = 256 * 2**20
"""Memory that the texts in flight may take."""


def leave_out(
    model: TextModel,
    ids: Sequence[int],
    pieces: Sequence[Piece],
    logits: Float[np.ndarray, "v"],
    targets: Sequence[int],
) -> Float[np.ndarray, "k"]:
    """Return what leaving out each piece costs a next token or a class, in bits.

        log2 p(target | text) - log2 p(target | text without the piece)

    Args:
      model: the model.
      ids: tokens of the text.
      pieces: the tokens as stretches of text; each is left out as a whole.
      logits: what the model predicts of the text.
      targets: the token or class; of two, what the first loses more than the second.

    Returns:
      One value for each of the last k pieces: of all unless the text is long. A text
      of a single piece is compared with knowing nothing: all are equally likely.
    """
    chosen = np.asarray(targets)
    whole = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))[chosen]
    if len(pieces) == 1:
        return _difference(whole[None] + np.log(len(logits)))
    reach = choose_left_out(len(ids), size_of(model))
    far = [i for i, piece in enumerate(pieces) if piece.start < len(ids) - reach]
    first = min(len(far), len(pieces) - 2)  # what is left must not be empty
    start = pieces[first].start
    rows, lengths = _without(ids[start:], start, pieces[first:])
    cache = None
    if start > 0:
        cache = _read_start(*nnx.split(model), jnp.asarray([ids[:start]], jnp.int32))
    without = _score_in_batches(model, rows, lengths, cache, chosen)
    return _difference(whole - without)


def _difference(lost: Float[np.ndarray, "k t"]) -> Float[np.ndarray, "k"]:
    """Return nats that one outcome loses, or one more than another, in bits."""
    first, *second = lost.T
    return ((first - sum(second)) / np.log(2)).astype(np.float32)


def _without(ids, start, pieces):
    """Return rows of tokens with one piece left out, zeros at the end, and lengths."""
    rows = np.zeros((len(pieces), len(ids) - 1), np.int32)
    lengths = np.zeros(len(pieces), np.int32)
    for i, piece in enumerate(pieces):
        rest = [*ids[: piece.start - start], *ids[piece.stop - start :]]
        rows[i, : len(rest)], lengths[i] = rest, len(rest)
    return rows, lengths


@partial(jax.jit, static_argnums=0)
def _read_start(graphdef, state, tokens):
    """Return what the layers remember of tokens that all rows begin with."""
    model = nnx.merge(graphdef, state)
    return model.run_layers(model.embed(tokens)).cache


def _score_in_batches(model, rows, lengths, cache, targets):
    """Return the log-probability of outcomes of each row."""
    graphdef, state = nnx.split(model)
    per_row = 40 * rows.shape[1] * size_of(model).channels
    size = max(1, min(len(rows), ROWS_BYTES // per_row))
    scores = []
    for i in range(0, len(rows), size):
        chosen = np.arange(i, i + size).clip(max=len(rows) - 1)  # one shape for all
        part = _score(graphdef, state, rows[chosen], lengths[chosen], cache, targets)
        scores.append(np.asarray(part)[: len(rows) - i])
    return np.concatenate(scores)


@partial(jax.jit, static_argnums=0)
def _score(graphdef, state, rows, lengths, cache, targets):
    model = nnx.merge(graphdef, state)
    if cache is not None:
        cache = jax.tree.map(lambda x: jnp.repeat(x, len(rows), axis=1), cache)
    x = model.run_layers(model.embed(rows), cache=cache, lengths=lengths).x
    last = jnp.take_along_axis(x, lengths[:, None, None] - 1, axis=1)[:, 0]
    return jax.nn.log_softmax(model.unembed(last), axis=-1)[:, targets]
