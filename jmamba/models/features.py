"""Features of texts: what a model makes of each token, and of a text as a whole."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.models.text_model import TextModel
from jmamba.models.texts import Texts, read_texts
from jmamba.requests import RESULT_BYTES, check_memory, take_token
from jmamba.types import ArrayLike, Tokens


class Features(NamedTuple):
    """What a model makes of texts.

    Attributes:
      hidden: the residual stream; row 0 is the embedding, row k + 1 is behind layer k.
        At padding it is that of the token before.
      tokens: the last of these, normalised.
      last: of `tokens`, the last that is no padding: what heads read.
      mean: the mean of `tokens` that are no padding.
    """

    hidden: Float[Array, "s+1 b l m"]
    tokens: Float[Array, "b l m"]
    last: Float[Array, "b m"]
    mean: Float[Array, "b m"]


def extract_features(
    model: TextModel,
    tokens: Tokens | ArrayLike,
    *,
    attention_mask: Int[Array, "b l"] | ArrayLike | None = None,
    memory_limit: int = RESULT_BYTES,
) -> Features:
    """Return hidden states and pooled embeddings of texts.

    Args:
      model: a language model or a classifier of texts.
      tokens: token ids (b, l).
      attention_mask: 1 where a token is, 0 where padding is, on any side; None for no
        padding, and of a classifier for what is not its `pad_token_id`.
      memory_limit: bytes that the hidden states may take.

    Raises:
      TypeError: tokens are a text, or something is no array.
      ValueError: tokens or mask do not fit the model, or too much would be returned.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> found = extract_features(model, jnp.array([list(b"hello")]))
      >>> found.hidden.shape, found.last.shape
      ((3, 1, 5, 16), (1, 16))
    """
    texts = read_texts(model.config, tokens, attention_mask=attention_mask)
    rows, length = texts.shape
    counts = {"layers": model.config.num_layers + 1, "texts": rows, "tokens": length}
    counts["width"] = model.config.d_model
    check_memory("extract_features", counts, 4, memory_limit)
    return _extract(*nnx.split(model), model.mark_padding(texts))


@partial(jax.jit, static_argnames="graphdef")
def _extract(graphdef, state, texts: Texts):
    model = nnx.merge(graphdef, state)
    passed, lengths, back = model.run_texts(
        texts, read=lambda block, x, out: (x, out.x)
    )
    entering, leaving = passed.found
    hidden = jnp.concatenate([entering, leaving[-1:]])
    normed = model.norm_f(passed.x)
    mask = texts.mask[..., None]
    if lengths is None:
        last = normed[:, -1]
    else:
        last = take_token(normed, jnp.maximum(lengths - 1, 0))
        hidden = jnp.take_along_axis(hidden, back[None, :, :, None], axis=2)
        normed = jnp.take_along_axis(normed, back[:, :, None], axis=1)
    count = jnp.maximum(jnp.sum(mask, axis=1), 1).astype(normed.dtype)
    mean = jnp.sum(jnp.where(mask, normed, 0), axis=1) / count
    return Features(hidden, normed, last, mean)
