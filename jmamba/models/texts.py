"""What a language model is given: token ids or embeddings, and what is padding."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from jmamba.requests import as_array


class Texts(NamedTuple):
    """A batch of texts that fit a model.

    Attributes:
      tokens: token ids; None where embeddings are given in their place.
      embeddings: what the embedding table would hold of the tokens; None for tokens.
      attention_mask: true where a token is; None where all are.
      segment_ids: of packed sequences; None for one per row.
    """

    tokens: Int[Array, "b l"] | None
    embeddings: Float[Array, "b l m"] | None = None
    attention_mask: Bool[Array, "b l"] | None = None
    segment_ids: Int[Array, "b l"] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and tokens in each with padding."""
        found = self.embeddings if self.tokens is None else self.tokens
        assert found is not None
        return found.shape[0], found.shape[1]

    @property
    def mask(self) -> Bool[Array, "b l"]:
        """True where a token is."""
        if self.attention_mask is not None:
            return self.attention_mask
        return jnp.ones(self.shape, bool)


TEXT_AXES: Any = Texts("bl", "blm", "bl", "bl")  # pyright: ignore[reportArgumentType]
"""Letters of texts, for `keep_places`."""


def read_texts(
    config: Any,
    tokens: Any,
    *,
    inputs_embeds: Any = None,
    attention_mask: Any = None,
    segment_ids: Any = None,
) -> Texts:
    """Return what a model is given as arrays of JAX that fit it.

    Values are checked only where they are known, that is outside of jit.

    Args:
      config: of the model.
      tokens: token ids (b, l), an array of any library or lists; None for embeddings.
      inputs_embeds: embeddings (b, l, d_model) in place of tokens.
      attention_mask: (b, l), 1 where a token is.
      segment_ids: (b, l) integers.

    Raises:
      TypeError: something is no array, or the tokens are a text.
      ValueError: shapes, dtypes or values do not fit; the message says which.
    """
    if (tokens is None) == (inputs_embeds is None):
        raise ValueError(
            "Give tokens or inputs_embeds, one of them: model(tokens), or "
            "model(None, inputs_embeds=x) with x of shape (batch, length, "
            f"{config.d_model})."
        )
    embeddings = None
    if tokens is not None:
        tokens = as_tokens(tokens, config.vocab_size)
        shape = tokens.shape
    else:
        embeddings = _as_embeddings(inputs_embeds, config.d_model)
        shape = embeddings.shape[:2]
    if attention_mask is not None:
        attention_mask = _as_mask(attention_mask, shape)
    if segment_ids is not None:
        segment_ids = _as_segments(segment_ids, shape)
    return Texts(tokens, embeddings, attention_mask, segment_ids)


def as_tokens(tokens: Any, vocab_size: int) -> Int[Array, "b l"]:
    """Return token ids as int32, or raise unless they are (b, l) in the vocabulary.

    Raises:
      TypeError: they are a text, or no array.
      ValueError: they have another shape or dtype, or an id is not in the vocabulary.
    """
    tokens = as_array(tokens, "tokens")
    if 0 in tokens.shape:
        raise ValueError(
            f"tokens are empty (shape {tokens.shape}); give at least one token."
        )
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(
            f"tokens must be integers of shape (batch, length), but got {tokens.dtype} "
            f"of shape {tokens.shape}. For one text of ids write jnp.array([ids])."
        )
    if not isinstance(tokens, Tracer):
        is_here = getattr(tokens, "is_fully_addressable", True)
        values = np.asarray(tokens) if is_here else tokens  # a cast could wrap them
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= vocab_size:
            raise ValueError(
                f"token ids must lie in [0, {vocab_size}), but range from {low} to "
                f"{high}. Was the text encoded with another model's tokenizer?"
            )
    return jnp.asarray(tokens, jnp.int32)


def _as_embeddings(x: Any, d_model: int) -> Float[Array, "b l m"]:
    x = as_array(x, "inputs_embeds")
    fits = x.ndim == 3 and x.shape[2] == d_model and 0 not in x.shape
    if not fits or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"inputs_embeds must be floats of shape (batch, length, {d_model}), but "
            f"got {x.dtype} of shape {x.shape}. Token ids go in as tokens."
        )
    return jnp.asarray(x)


def _as_mask(mask: Any, shape: tuple[int, ...]) -> Bool[Array, "b l"]:
    mask = as_array(mask, "attention_mask")
    if mask.shape != shape:
        raise ValueError(
            f"attention_mask has shape {mask.shape}, but tokens have {shape}; give one "
            "0 or 1 per token."
        )
    if not isinstance(mask, Tracer):
        values = np.asarray(mask)
        if not np.all((values == 0) | (values == 1)):
            raise ValueError(
                f"attention_mask holds {values.min()} to {values.max()}; give 1 where "
                "a token is and 0 where padding is, not a mask to add to scores."
            )
    return jnp.asarray(mask).astype(bool)


def _as_segments(ids: Any, shape: tuple[int, ...]) -> Int[Array, "b l"]:
    ids = as_array(ids, "segment_ids")
    if ids.shape != shape or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(
            f"segment_ids are {ids.dtype} of shape {ids.shape}, but tokens have "
            f"{shape}; give one integer per token."
        )
    return jnp.asarray(ids)


def compact(mask: Bool[Array, "b l"]) -> tuple[Array, Array, Array]:
    """Say how to move the tokens of each row to its front, padding to its end.

    Returns:
      order (b, l): which position comes at each place; lengths (b,): tokens per row;
      back (b, l): where to read the result of each position, padding reading that of
      the token before it.
    """
    order = jnp.argsort(~mask, axis=1, stable=True)
    back = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
    return order, jnp.sum(mask, axis=1), back
