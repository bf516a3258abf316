"""Guessing the next tokens from what was there before.

A text that repeats itself is often told by its own past: where the newest tokens stood
before, the ones that followed them then are guessed to follow now.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jmamba.generation.request import Request


@dataclasses.dataclass(frozen=True)
class Lookup:
    """Says how tokens are guessed from the text before them.

    Where the last `max_ngram` tokens, or as many of them as there are, but at least
    `min_ngram`, stood before, the `num_tokens` that followed are guessed; of several
    places the one with the most tokens alike, and of these the last. Only the prompt
    and the new tokens of one call are looked up.

    Attributes:
      num_tokens: guessed at once.
      min_ngram: tokens that must be alike.
      max_ngram: tokens that are compared.

    Raises:
      ValueError: a number is below 1, or the ngrams are in the wrong order.

    Examples:
      >>> Lookup(num_tokens=8)
      Lookup(num_tokens=8, min_ngram=2, max_ngram=8)

    References:
      Leviathan et al., "Fast Inference from Transformers via Speculative Decoding",
      arXiv 2211.17192, for checking guesses; Saxena, "Prompt Lookup Decoding", 2023,
      for guessing by the prompt.
    """

    num_tokens: int = 4
    min_ngram: int = 2
    max_ngram: int = 8

    def __post_init__(self):
        """Check the numbers."""
        given = dataclasses.astuple(self)
        if not all(type(x) is int and x >= 1 for x in given):
            raise ValueError(f"Lookup takes whole numbers from 1 on, but is {self}.")
        if self.min_ngram > self.max_ngram:
            raise ValueError(f"min_ngram is above max_ngram in {self}.")

    @property
    def width(self) -> int:
        """Tokens that a pass reads: guesses that were right before, and new ones."""
        return 2 * self.num_tokens + 1


def check_lookup(lookup: Any, request: Request) -> None:
    """Raise unless guesses can be checked.

    Raises:
      TypeError: it is no `Lookup`.
      ValueError: tokens are drawn at random.
    """
    if lookup is None:
        return
    if not isinstance(lookup, Lookup):
        raise TypeError(
            f"generate: lookup must be a Lookup, but is {lookup!r}. Give for example "
            "lookup=Lookup(num_tokens=4) of jmamba.generation."
        )
    if request.key is not None:
        raise ValueError(
            "generate: lookup checks guesses against the likeliest token, but a "
            "temperature above 0 draws others. Leave lookup out, or the temperature."
        )


def guess_tokens(
    history: Int[Array, "b t"], filled: Int[Array, "b"], lookup: Lookup
) -> tuple[Int[Array, "b k"], Bool[Array, "b"]]:
    """Return guesses for the tokens that come next, and which rows have any.

    Args:
      history: the texts, in the first places.
      filled: their lengths.
      lookup: how tokens are guessed.

    Examples:
      >>> text = jnp.array([[7, 1, 2, 3, 4, 9, 1, 2, 0, 0]])
      >>> tokens, found = guess_tokens(text, jnp.array([8]), Lookup(num_tokens=3))
      >>> tokens.tolist(), found.tolist()
      ([[3, 4, 9]], [True])
    """
    places = jnp.arange(history.shape[1])[None]  # 1 t: where an earlier ngram ends
    alike, run = jnp.zeros(history.shape, jnp.int32), True
    for back in range(lookup.max_ngram):
        newest = jnp.take_along_axis(
            history, jnp.maximum(filled - 1 - back, 0)[:, None], axis=1
        )
        earlier = jnp.pad(history, ((0, 0), (back, 0)))[:, : history.shape[1]]
        run = run & (earlier == newest) & (places >= back) & (filled[:, None] > back)
        alike = alike + run.astype(jnp.int32)
    is_place = (alike >= lookup.min_ngram) & (places < filled[:, None] - 1)
    best = jnp.argmax(jnp.where(is_place, alike * places.size + places, -1), axis=1)
    period = jnp.maximum(filled - 1 - best, 1)  # what repeats is taken to go on
    after = jnp.arange(lookup.num_tokens)[None] % period[:, None]
    tokens = jnp.take_along_axis(history, best[:, None] + 1 + after, axis=1)
    return tokens, jnp.any(is_place, axis=1)
