"""Numbers of each layer: how far it looks, where, and how alike its tokens are."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float64, Int

from jmamba.attention.matrices.channels import attend, map_channels, open_directions
from jmamba.attention.matrices.reduction import REDUCTIONS
from jmamba.attention.matrices.rows import query_rows
from jmamba.attention.question import Inputs, PerSample, ask
from jmamba.layers.model import LayeredModel
from jmamba.ops.meshes import on_any_mesh
from jmamba.types import OfHeads, SideBySide
from jmamba_kernels import accumulation_dtype

CHANNELS_AT_ONCE = 64
"""Channels whose rows are worked out together."""


class LayerMeasures(NamedTuple):
    """What every layer does with every sample.

    Attributes:
      distance: mean distance of what each channel reads, in tokens; a `ByRun` where
        kinds of layers have other numbers of channels or heads.
      similarity: mean cosine of the tokens that leave the layer.
      row: the query's attention, reduced over channels.
    """

    distance: Any
    similarity: Float[Array, "s b"]
    row: Float[Array, "s b l"]


class LayerAverages(NamedTuple):
    """The same, averaged over the samples of a data set.

    Attributes:
      distance: mean distance of what each channel reads, in tokens; a `ByRun` where
        kinds of layers have other numbers of channels or heads.
      similarity: mean cosine of the tokens that leave the layer.
      row: the query's attention, reduced over channels: of class tokens the map of
        their position bias.
      samples: how many there were.
    """

    distance: Any
    similarity: Float64[np.ndarray, "s"]
    row: Float64[np.ndarray, "s l"]
    samples: int


@on_any_mesh
def mean_distance(
    rows: Float[Array, "*c b l"], query: Int[Array, "b"]
) -> Float[Array, "*c b"]:
    """Return how far from a query the tokens are that it reads, on average.

        sum_j |i - j| |alpha[i, j]| / sum_j |alpha[i, j]|

    This is the Mamba mean distance, the size of the effective receptive field. A row of
    zeros has distance 0.

    Args:
      rows: the rows alpha[i] of each sample's query i.
      query: i, counted from 0.

    Examples:
      >>> rows = jnp.array([[0.0, -1.0, 1.0], [3.0, 4.0, 1.0]])
      >>> mean_distance(rows, jnp.array([2, 1])).tolist()
      [0.5, 0.5]

    References:
      Ben-Kish et al., "DeciMamba", arXiv 2406.14528, equation 8, with its indices in
      the order that its text says.
    """
    weight = jnp.abs(rows)
    places = jnp.arange(rows.shape[-1])
    apart = jnp.abs(query[:, None] - places[None]).astype(rows.dtype)
    apart = jnp.broadcast_to(apart, rows.shape)
    total = jnp.sum(weight, axis=-1)
    return jnp.sum(apart * weight, axis=-1) / jnp.where(total > 0, total, 1)


@on_any_mesh
def mean_cosine(x: Float[Array, "*b l m"]) -> Float[Array, "*b"]:
    """Return the mean cosine of all pairs of tokens, in O(l m).

        mean over i < j of cos(x_i, x_j) = (|sum_i e_i|^2 - sum_i |e_i|^2) / (l (l - 1))

    with e_i = x_i / |x_i|. It nears 1 where a model smooths its tokens over; a token
    of zeros is orthogonal to all.

    Args:
      x: a residual stream.

    Raises:
      ValueError: there is only one token.

    Examples:
      >>> float(mean_cosine(jnp.array([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])))
      0.3333333432674408

    References:
      Ali, Zimerman & Wolf, arXiv 2403.01590v2, appendix A.
    """
    length = x.shape[-2]
    if length < 2:
        raise ValueError(f"{length} token has no pairs; give at least two tokens.")
    x = x.astype(accumulation_dtype(x.dtype))
    # scaled first, so that squares neither overflow nor vanish
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    x = x / jnp.where(largest > 0, largest, 1)
    size = jnp.linalg.norm(x, axis=-1, keepdims=True)
    e = x / jnp.where(size > 0, size, 1)
    together = jnp.sum(jnp.sum(e, axis=-2) ** 2, axis=-1)
    own = jnp.sum(e**2, axis=(-2, -1))
    return (together - own) / (length * (length - 1))


@on_any_mesh
def measure_layers(
    model: LayeredModel,
    inputs: Inputs,
    *,
    query: PerSample = None,
    reduction: str = "mean_abs",
) -> LayerMeasures:
    """Measure distance, similarity and attention of every layer in one forward pass.

    No array of shape (l, l) exists: rows are as large as the model's activations.

    Args:
      model: a `MambaLM` or a `Vim`.
      inputs: token ids (b, l) or images (b, height, width, colours).
      query: the token whose attention is measured, one or one per sample; None for the
        class token of an image and the last token of a text. For texts padded on the
        right give their last tokens; similarity then still counts the padding.
      reduction: how rows of channels become one, a name in `REDUCTIONS`.

    Raises:
      ValueError: inputs do not fit the model, query is out of range or missing for a
        model without class token, the reduction is unknown, or there is one token only.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=8, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> measures = measure_layers(model, jnp.array([list(b"hello")]))
      >>> measures.distance.shape, measures.similarity.shape, measures.row.shape
      ((2, 1, 16), (2, 1), (2, 1, 5))

    References:
      Ben-Kish et al., "DeciMamba", arXiv 2406.14528; Ali, Zimerman & Wolf, arXiv
      2403.01590, section 4 and appendix A.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"Unknown reduction {reduction!r}; give one of {', '.join(REDUCTIONS)}."
        )
    question = ask(model, inputs, None, query)
    if question.query is None:
        raise ValueError(
            "The model has no class token whose attention could be measured; give "
            "query=..., a token of the residual stream."
        )
    return _measure_layers(
        question.graphdef,
        question.state,
        question.inputs,
        question.query,
        reduction=reduction,
    )


@partial(jax.jit, static_argnames=("graphdef", "reduction"))
def _measure_layers(graphdef, state, inputs, query, reduction):
    model = nnx.merge(graphdef, state)

    def measure(block, x, out):
        rows = _query_rows(out.recurrence, query)  # d b l
        each, _, across, _, mean = REDUCTIONS[reduction]
        row = across(each(rows), axis=0) / (rows.shape[0] if mean else 1)
        return mean_distance(rows, query).T, mean_cosine(out.x), row

    return LayerMeasures(*model.run_layers(model.embed(inputs), read=measure).found)


def _query_rows(recurrence, query):
    """Return the query's row of every channel, a few at a time, or head."""
    if isinstance(recurrence, OfHeads | SideBySide):
        return jnp.swapaxes(query_rows(recurrence, query), 0, 1)
    return map_channels(
        open_directions(recurrence, ()),
        lambda one: attend(one, query[:, None])[0, :, 0],
        CHANNELS_AT_ONCE,
    )


def _sum_samples(x: Any) -> np.ndarray:  # s b ... -> s ...
    return np.asarray(x, np.float64).sum(axis=1)


@on_any_mesh
def average_layers(
    model: LayeredModel,
    batches: Iterable[Any],
    *,
    query: int | None = None,
    reduction: str = "mean_abs",
    report: Callable[[int], None] = lambda count: None,
) -> LayerAverages:
    """Average what `measure_layers` measures over the batches of a data set.

    Means run along in float64: only one batch is in memory. Batches may differ in
    size, but not in the number of tokens. Of a `Vim`, `patch_grid` makes pictures of
    the rows of class tokens.

    Args:
      model: a `MambaLM` or a `Vim`.
      batches: of token ids or of images.
      query, reduction: as in `measure_layers`.
      report: called after each batch with the number of samples so far.

    Raises:
      ValueError: there is no batch, batches differ in the number of tokens, or as in
        `measure_layers`.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=8, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> averages = average_layers(model, [jnp.array([list(b"hello")])] * 3)
      >>> averages.row.shape, averages.samples
      ((2, 5), 3)

    References:
      Ali, Zimerman & Wolf, arXiv 2403.01590, section 4, for the maps of class tokens.
    """
    totals: Any = None
    count = 0
    for batch in batches:
        measures = measure_layers(model, batch, query=query, reduction=reduction)
        sums = jax.tree.map(_sum_samples, tuple(measures))
        if totals is not None and totals[2].shape != sums[2].shape:
            raise ValueError(
                f"A batch has {sums[2].shape[1]} tokens and those before it "
                f"{totals[2].shape[1]}; average samples of one size."
            )
        totals = sums if totals is None else jax.tree.map(np.add, totals, sums)
        count += measures.row.shape[1]
        report(count)
    if totals is None:
        raise ValueError("There are no batches; give at least one.")
    distance, similarity, row = jax.tree.map(lambda total: total / count, totals)
    return LayerAverages(distance, similarity, row, count)
