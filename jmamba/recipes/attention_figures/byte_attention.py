"""Attention of byte-level models: maps through depth, and how far they reach."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jmamba.attention import (
    hidden_attention,
    mean_distance,
    measure_layers,
    reduced_attention,
)
from jmamba.models.mamba.model import MambaLM
from jmamba.recipes.attention_figures.byte_transformer import ByteTransformer, look
from jmamba.tracing.trace import trace

LOCAL, GLOBAL = 0.1, 0.9
"""Quantiles of mean distance at which the channels that are drawn stand."""

Bytes = Int[np.ndarray, "b l"]


class Reach(NamedTuple):
    """How far back the last token of texts reads, the mean over texts.

    Attributes:
      distance: of each layer's channels or heads, in tokens.
      similarity: mean cosine of a layer's tokens; none for a Transformer.
    """

    distance: Float[np.ndarray, "s d"]
    similarity: Float[np.ndarray, "s"] | None


def depths(num_layers: int) -> list[int]:
    """Return the layers at 25, 50 and 75 % of the depth.

    Examples:
      >>> depths(24), depths(6)
      ([6, 12, 18], [1, 3, 4])
    """
    return [int(share * num_layers) for share in (0.25, 0.5, 0.75)]


def reach_of_channels(model: MambaLM, texts: Bytes) -> Reach:
    """Measure how far channels read."""
    distance, similarity = [], []
    for text in texts:  # one at a time: rows of all channels are large
        measures = measure_layers(model, jnp.asarray(text)[None])
        distance.append(np.asarray(measures.distance)[:, 0])
        similarity.append(np.asarray(measures.similarity)[:, 0])
    return Reach(np.mean(distance, axis=0), np.mean(similarity, axis=0))


def reach_of_heads(model: ByteTransformer, texts: Bytes) -> Reach:
    """Measure how far heads read."""
    attention = look(model, jnp.asarray(texts))
    query = jnp.full(len(texts), texts.shape[1] - 1)
    rows = jnp.moveaxis(attention[:, :, :, -1], 1, 2)  # s b h l -> s h b l
    return Reach(np.asarray(mean_distance(rows, query)).mean(axis=-1), None)


def channel_maps(
    model: MambaLM, text: Int[np.ndarray, "l"], layer: int, reach: Reach
) -> list[np.ndarray]:
    """Return |alpha| of a local and of a global channel, and the mean over channels."""
    recurrence = trace(model, jnp.asarray(text)[None], layers=[layer]).layer(layer)
    order = np.argsort(reach.distance[layer])
    chosen = [order[int(share * len(order))] for share in (LOCAL, GLOBAL)]
    alpha = hidden_attention(recurrence, channels=[int(c) for c in chosen])
    mean = reduced_attention(recurrence, "mean_abs")[0]
    return [np.abs(np.asarray(x)) for x in (alpha[0, 0], alpha[0, 1], mean)]


def head_maps(
    model: ByteTransformer, text: Int[np.ndarray, "l"], layer: int, reach: Reach
) -> list[np.ndarray]:
    """Return the attention of the nearest and the farthest head, and the mean."""
    maps = np.asarray(look(model, jnp.asarray(text)[None]))[layer, 0]
    order = np.argsort(reach.distance[layer])
    return [maps[order[0]], maps[order[-1]], maps.mean(axis=0)]


def depth_maps(model: MambaLM, text: Int[np.ndarray, "l"]) -> list[np.ndarray]:
    """Return each layer's mean of |alpha| over channels."""
    traced = trace(model, jnp.asarray(text)[None])
    return [
        np.asarray(reduced_attention(traced.layer(s), "mean_abs")[0])
        for s in range(model.config.num_layers)
    ]


def coarse_map(
    model: MambaLM, text: Int[np.ndarray, "l"], layer: int, side: int
) -> np.ndarray:
    """Return |mean of alpha over channels| of some rows, the largest of each block.

    Args:
      model: the model.
      text: its bytes, a multiple of `side`.
      layer: which.
      side: rows and columns of the map.
    """
    step = len(text) // side
    rows = list(range(step - 1, len(text), step))
    recurrence = trace(model, jnp.asarray(text)[None], layers=[layer]).layer(layer)
    mean = np.abs(np.asarray(reduced_attention(recurrence, "mean", rows=rows)[0]))
    return mean.reshape(len(rows), -1, step).max(axis=2)


def far_share(model: MambaLM, text: Int[np.ndarray, "l"], far: int) -> np.ndarray:
    """Return what share of the last token's mean |alpha| lies `far` or more back."""
    row = np.asarray(measure_layers(model, jnp.asarray(text)[None]).row)[:, 0]
    return row[:, : len(text) - far].sum(axis=1) / row.sum(axis=1)
