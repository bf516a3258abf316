"""What reports read off all layers, a few traced at a time."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jmamba.attention import reduced_attention
from jmamba.layers.model import LayeredModel
from jmamba.report.size import size_of
from jmamba.tracing.trace import trace

TRACE_BYTES = 512 * 2**20
"""Memory that the traced layers may take at a time."""


class Depth(NamedTuple):
    """One text or image, layer by layer.

    Attributes:
      attention: mean |alpha| over channels, from the rows that were asked for.
      norms: Euclidean norm of each token; row 0 is the embedding, row k + 1 is after
        layer k.
      readings: what was read off the residual stream at the same depths.
      looks: what was seen of each layer.
    """

    attention: Float[np.ndarray, "s q l"]
    norms: Float[np.ndarray, "s+1 l"]
    readings: np.ndarray
    looks: list[Any]


def measure_depth(
    model: LayeredModel,
    inputs: Any,
    *,
    rows: Sequence[int] | None = None,
    read: Callable = lambda x: jnp.zeros(()),
    look: Callable[..., Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Depth:
    """Trace all layers and keep what reports draw.

    Args:
      model: of texts or images.
      inputs: one text or image, with its batch axis.
      rows: tokens whose attention is asked for; None for all.
      read: function of the residual stream (1, l, m) at each depth.
      look: called as look(block, recurrence, x) with each layer, what it projects to,
        and the residual stream entering it.
      progress: called as progress(done, total) after each layer.
    """
    count, length = model.config.num_layers, model.count_tokens(inputs.shape)
    bytes_per_layer = 20 * length * size_of(model).channels
    at_a_time = max(1, TRACE_BYTES // bytes_per_layer)
    attention, norms, readings, looks = [], [], [], []

    def note(x):
        norms.append(np.asarray(jnp.linalg.norm(x[0].astype(jnp.float32), axis=-1)))
        readings.append(np.asarray(read(x)))

    for start in range(0, count, at_a_time):
        layers = range(start, min(start + at_a_time, count))
        traced = trace(model, inputs, layers=layers)
        if not norms:
            note(traced.residual_in[0])
        for k, layer in enumerate(layers):
            note(traced.residual_out[k])
            alpha = reduced_attention(traced.layer(layer), "mean_abs", rows=rows)
            attention.append(np.asarray(alpha[0], np.float32))
            if look is not None:
                x = traced.residual_in[k]
                looks.append(look(model.layer(layer), traced.layer(layer), x))
            progress(layer + 1, count)
    return Depth(np.stack(attention), np.stack(norms), np.stack(readings), looks)
