"""Numbers that are not finite: where in a model they come from."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jmamba.generation.request import Request
from jmamba.layers.room import add_room
from jmamba.models.texts import compact


def check_overflow(
    model: Any, request: Request, generated: Any, has_overflowed: np.ndarray
) -> None:
    """Raise if there were no finite logits to draw a token from.

    Args:
      model: the model.
      request: what it was asked.
      generated: what came of it.
      has_overflowed: rows whose logits were not finite.

    Raises:
      FloatingPointError: a row has overflowed; the message names the first layer whose
        residual stream has.
    """
    if not has_overflowed.any():
        return
    rows = np.flatnonzero(has_overflowed).tolist()
    graphdef, state = nnx.split(model)
    before, layers = _find(graphdef, state, request, generated)
    bad = np.flatnonzero(~np.asarray(layers)[:, rows].all(axis=1))
    where = "the output projection, behind all layers"
    if not np.asarray(before)[rows].all():
        where = "what the first layer is given: the embeddings, or the cache"
    elif bad.size:
        where = f"layer {bad[0]} of {model.config.num_layers} (0 based)"
    dtype = jnp.dtype(model.dtype).name
    advice = (
        "float16 ends at 65504; bfloat16 reaches as far as float32: load the model "
        'with dtype="bfloat16".'
        if dtype == "float16"
        else "Look for weights that are not finite, or far too large: "
        "jax.tree.map(jnp.max, nnx.state(model))."
    )
    raise FloatingPointError(
        f"generate: logits of rows {rows} are not finite after "
        f"{int(np.asarray(generated.lengths)[rows].max())} new tokens, so that there "
        f"is nothing to draw from. The model computes in {dtype}, and the first "
        f"numbers to overflow are in {where}. {advice}"
    )


@partial(jax.jit, static_argnames="graphdef")
def _find(graphdef, state, request: Request, generated):
    """Return whether rows are finite before the first layer, and behind each."""
    model = nnx.merge(graphdef, state)
    new = generated.tokens
    x = model.embed(jnp.clip(new, 0, model.config.vocab_size - 1))  # padding is any id
    mask = jnp.arange(new.shape[1])[None] < generated.lengths[:, None]
    layers = request.layers if request.start is None else request.start.layers
    if request.texts is not None:
        x = jnp.concatenate([model.embed_texts(request.texts), x], axis=1)
        mask = jnp.concatenate([request.texts.mask, mask], axis=1)
    order, lengths, _ = compact(mask)
    x = jnp.take_along_axis(x, order[:, :, None], axis=1)
    is_token = jnp.arange(x.shape[1])[None] < lengths[:, None]

    def is_finite(x):
        return jnp.all(jnp.isfinite(x) | ~is_token[:, :, None], axis=(1, 2))

    def look(block, x, out):
        return is_finite(out.x)

    before = is_finite(x)
    for leaf in jax.tree.leaves(layers):  # s b ...
        axes = (0, *range(2, leaf.ndim))
        before = before & jnp.all(jnp.isfinite(leaf), axis=axes)
    layers = add_room(layers, new.shape[1])
    return before, model.run_layers(x, cache=layers, lengths=lengths, read=look).found
