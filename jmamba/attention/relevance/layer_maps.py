"""The attention of one layer as one map: a matrix, or the query's row."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmamba.attention.matrices.factorisation import factorise
from jmamba.attention.matrices.factors import AnyInputs, needs_factors, split_directions
from jmamba.attention.matrices.reduction import reduced_attention
from jmamba.attention.matrices.rows import query_rows
from jmamba.attention.relevance.scaling import discard_lowest, min_max
from jmamba.attention.relevance.settings import AttentionSettings
from jmamba.types import OfHeads, SideBySide

LayerMap = Float[Array, "b l l"] | Float[Array, "b l"]

_OVER_CHANNELS = {
    "mean": jnp.mean,
    "max": jnp.max,
    "min": jnp.min,
    "product": jnp.prod,
}


def measure_layer(
    block,
    x: Float[Array, "b l m"],
    out,
    query: Int[Array, "b"] | None,
    settings: AttentionSettings,
    *,
    row: bool,
    positive: bool,
    scale: bool,
) -> LayerMap:
    """Return a layer's attention, reduced over channels as the settings say.

    That of a layer with a softmax, or of a gated recurrence such as the delta rule, is
    reduced over its heads, with nothing folded in; of a recurrence and attention side
    by side over the channels or heads of both. Feed-forward layers, which move nothing
    between tokens, have none.

    Args:
      block: the layer.
      x: the residual stream entering it.
      out: its output.
      query: a token of each sample; None for the mean over all.
      settings: the choices.
      row: whether the query's row is enough.
      positive: whether attention is cut off below 0 before it is reduced.
      scale: whether `channel_norm` is heeded.
    """
    recurrence: AnyInputs | OfHeads | SideBySide = out.recurrence
    if isinstance(recurrence, OfHeads):  # nothing can be folded in
        settings = dataclasses.replace(settings, fold=())
    elif needs_factors(settings.fold):
        recurrence = factorise(block, x)
    if row:
        found = query_rows(recurrence, query, fold=settings.fold, exact=settings.exact)
        found = jax.nn.relu(found) if positive else found
        found = min_max(found) if scale and settings.channel_norm else found
        found = _OVER_CHANNELS[settings.channels](found, axis=1)
    else:
        found = _reduce_matrices(recurrence, settings, positive)
    if not settings.discard:
        return found
    seen = jnp.ones(found.shape, bool)
    is_of_text = isinstance(recurrence, OfHeads | SideBySide)
    if is_of_text or len(split_directions(recurrence)) == 1:
        # a text's queries see nothing ahead
        keys = jnp.arange(found.shape[-1])
        last = keys[None, :, None]
        if row:
            assert query is not None  # `ask` gives texts one
            last = query[:, None]
        seen = jnp.broadcast_to(keys[(None,) * (found.ndim - 1)] <= last, found.shape)
    return discard_lowest(found, settings.discard, seen)


def _reduce_matrices(
    recurrence: AnyInputs | OfHeads | SideBySide,
    settings: AttentionSettings,
    positive: bool,
):
    reduction = settings.channels
    if positive and reduction == "mean":
        return reduced_attention(recurrence, "mean_positive", fold=settings.fold)
    found = reduced_attention(recurrence, reduction, fold=settings.fold)
    # the greatest of what is cut off is what is cut off of the greatest
    return jax.nn.relu(found) if positive else found
