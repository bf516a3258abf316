"""One attention matrix per layer: reductions over its channels, a few at a time."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmamba.attention.matrices.channel_sum import sum_channels
from jmamba.attention.matrices.channels import (
    attend,
    map_channels,
    measure_inputs,
    open_directions,
    with_channels,
)
from jmamba.attention.matrices.factors import AnyInputs, check_fold
from jmamba.attention.matrices.gated import attend_heads
from jmamba.ops.meshes import on_any_mesh
from jmamba.requests import RESULT_BYTES, check_finite, check_memory, choose_positions
from jmamba.types import OfHeads, SideBySide


class Reduction(NamedTuple):
    """How matrices of channels become one: combine, over channels, each(alpha)."""

    each: Callable
    combine: Callable
    across: Callable
    start: float
    mean: bool = False


def _same(alpha):
    return alpha


REDUCTIONS = {
    "mean": Reduction(_same, jnp.add, jnp.sum, 0.0, mean=True),
    "mean_abs": Reduction(jnp.abs, jnp.add, jnp.sum, 0.0, mean=True),
    "mean_positive": Reduction(jax.nn.relu, jnp.add, jnp.sum, 0.0, mean=True),
    "max": Reduction(_same, jnp.maximum, jnp.max, -jnp.inf),
    "min": Reduction(_same, jnp.minimum, jnp.min, jnp.inf),
    "product": Reduction(_same, jnp.multiply, jnp.prod, 1.0),
}
"""Reductions over channels that `reduced_attention` knows.

A product over hundreds of weights below 1 is soon less than any float: it is there for
small models and for `top` channels.
"""


@on_any_mesh
def reduced_attention(
    recurrence: AnyInputs | OfHeads | SideBySide,
    reduction: str = "mean_abs",
    *,
    fold: Collection[str] = (),
    rows: Sequence[int] | Int[Array, "b q"] | None = None,
    top: int | None = None,
    channels_at_once: int | None = None,
    memory_limit: int = RESULT_BYTES,
) -> Float[Array, "b q l"]:
    """Return one attention matrix per text or image, reduced over a layer's heads.

    They are its channels in Mamba-1, or if something is folded in that channels have of
    their own.

    Channels come a few at a time: no array of shape (d, l, l) exists. The mean of whole
    matrices is by far the fastest, as it is a product of matrices itself
    (`sum_channels`); its error is relative to the largest mean, as of all sums.

    Args:
      recurrence: as in `hidden_attention`.
      reduction: "mean", "mean_abs" (mean of |alpha|), "mean_positive" (of max(alpha,
        0)), "max", "min" or "product".
      fold: what else is part of the matrices, see `hidden_attention`.
      rows: which query positions, negative ones from the end; None for all l; or an
        array of those of each sample, from 0 on.
      top: reduce only so many channels of each sample, those of `top_channels`; None
        for all.
      channels_at_once: channels whose matrices are in memory together; None for 8, or
        96 for the mean of whole matrices.
      memory_limit: bytes the result may take.

    Raises:
      ValueError: the reduction or a part is unknown, a row does not exist, there are
        not so many channels, a parameter is not finite, or the result would be larger
        than the limit.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.VimConfig(
      ...     d_model=16, num_layers=2, num_classes=5, image_size=32, patch_size=8
      ... )
      >>> model = jmamba.Vim(config, rngs=nnx.Rngs(0))
      >>> t = jmamba.trace(model, jnp.ones((1, 32, 32, 3)), layers=[1])
      >>> reduced_attention(t.layer(1), "mean", rows=[8]).shape  # of the class token
      (1, 1, 17)

    References:
      Ali, Zimerman & Wolf, ACL 2025, section 4 and table 5.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"Unknown reduction {reduction!r}; give one of {', '.join(REDUCTIONS)}."
        )
    check_fold(recurrence, fold)
    check_finite(recurrence._asdict(), "attention")
    batch, length, channels, dtype = measure_inputs(recurrence, fold)
    queries = _queries(rows, batch, length)
    if top is not None and not 1 <= top <= channels:
        raise ValueError(f"top={top}: give 1 to {channels}, the number of channels.")
    check_memory(
        "reduced_attention",
        {
            "texts": batch,
            "rows": length if queries is None else queries.shape[1],
            "tokens": length,
        },
        dtype.itemsize,
        memory_limit,
    )
    usual = 96 if reduction == "mean" and queries is None else 8
    at_once = max(1, min(channels_at_once or usual, channels))
    options = {"fold": tuple(fold), "at_once": at_once}
    if isinstance(recurrence, SideBySide):
        _check_whole(top)
        return _reduced_side_by_side(recurrence, queries, reduction, **options)
    if top is None:
        return _reduced_attention(recurrence, queries, None, reduction, **options)
    best = _top_channels(recurrence, queries, top, **options)
    mask = jnp.zeros((channels, batch), bool)
    mask = mask.at[best.T, jnp.arange(batch)[None]].set(True)
    return _reduced_attention(recurrence, queries, mask, reduction, **options)


@on_any_mesh
def top_channels(
    recurrence: AnyInputs | OfHeads | SideBySide,
    count: int,
    *,
    fold: Collection[str] = (),
    rows: Sequence[int] | None = None,
    channels_at_once: int = 8,
) -> Int[Array, "b c"]:
    """Return the channels of greatest total weight sum |alpha|, the greatest first.

    Args:
      recurrence, fold, rows, channels_at_once: as in `reduced_attention`.
      count: how many channels.

    Raises:
      ValueError: a row or part does not exist, there are not so many channels, or a
        parameter is not finite.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> recurrence = jmamba.trace(model, jnp.array([list(b"hello")])).layer(1)
      >>> best = top_channels(recurrence, 3)
      >>> best.shape
      (1, 3)
      >>> total = reduced_attention(recurrence, "mean_abs", top=1)
      >>> others = reduced_attention(recurrence, "mean_abs")
      >>> bool(jnp.sum(total) > jnp.sum(others))  # the first outweighs the mean
      True
    """
    check_fold(recurrence, fold)
    check_finite(recurrence._asdict(), "attention")
    batch, length, channels, _ = measure_inputs(recurrence, fold)
    if isinstance(recurrence, SideBySide):
        _check_whole(count)
    if not 1 <= count <= channels:
        raise ValueError(
            f"count={count}: give 1 to {channels}, the number of channels."
        )
    queries = _queries(rows, batch, length)
    at_once = max(1, min(channels_at_once, channels))
    return _top_channels(recurrence, queries, count, fold=tuple(fold), at_once=at_once)


@partial(jax.jit, static_argnames=("count", "fold", "at_once"))
def _top_channels(recurrence, rows, count, fold, at_once):
    if isinstance(recurrence, OfHeads):
        weights = attend_heads(
            recurrence, _rows_of(recurrence, rows), lambda a: jnp.sum(jnp.abs(a), -1)
        )
        return jax.lax.top_k(jnp.sum(weights, axis=-1), count)[1]
    directions = open_directions(recurrence, fold)

    def weigh(one):
        return jnp.sum(jnp.abs(attend(one, rows)[0]), axis=(1, 2))

    weights = map_channels(directions, weigh, at_once)
    return jax.lax.top_k(weights.T, count)[1]


@partial(jax.jit, static_argnames=("reduction", "fold", "at_once"))
def _reduced_attention(recurrence, rows, mask, reduction, fold, at_once):
    each, combine, across, start, mean = REDUCTIONS[reduction]
    if isinstance(recurrence, OfHeads):
        return _reduced_heads(recurrence, rows, mask, REDUCTIONS[reduction])
    directions = open_directions(recurrence, fold)
    delta = directions[0].channels.delta
    channels, batch, length = delta.shape
    number = channels if mask is None else jnp.sum(mask[:, 0]).astype(delta.dtype)
    if reduction == "mean" and rows is None:
        return sum_channels(directions, mask, at_once=at_once) / number

    def add(total, part):
        own, chosen = part
        alpha = each(attend(with_channels(directions, own), rows))
        if chosen is not None:
            alpha = jnp.where(chosen[:, :, None, None], alpha, start)
        return combine(total, across(alpha, axis=0)), None

    whole = channels // at_once * at_once
    parts = tuple(one.channels for one in directions), mask
    chunks = jax.tree.map(lambda x: x[:whole].reshape(-1, at_once, *x.shape[1:]), parts)
    count = length if rows is None else rows.shape[1]
    total = jnp.full((batch, count, length), start, delta.dtype)
    total, _ = jax.lax.scan(add, total, chunks)
    if whole < channels:
        total, _ = add(total, jax.tree.map(lambda x: x[whole:], parts))
    return total / number if mean else total


def _check_whole(top: int | None) -> None:
    """Raise if channels of a layer of two mixers are to be picked."""
    if top is not None:
        raise ValueError(
            f"top={top}: this layer is a recurrence and attention side by side; give "
            "one of them, recurrence.recurrent or recurrence.attention."
        )


def _reduced_side_by_side(recurrence: SideBySide, rows, reduction, fold, at_once):
    """Reduce the matrices of the recurrence and those of the attention together."""
    _, combine, _, _, mean = REDUCTIONS[reduction]
    parts = (recurrence.recurrent, fold), (recurrence.attention, ())
    made = [
        _reduced_attention(one, rows, None, reduction, fold=own, at_once=at_once)
        for one, own in parts
    ]
    if not mean:
        return combine(*made)
    counts = [measure_inputs(one, own)[2] for one, own in parts]
    shares = [jnp.asarray(n / sum(counts), made[0].dtype) for n in counts]
    return combine(*(share * x for share, x in zip(shares, made, strict=True)))


def _reduced_heads(recurrence, rows, mask, reduction):
    """Reduce the heads of every column of the matrices before there are matrices."""
    heads = recurrence.queries.shape[2]
    number = jnp.asarray(heads) if mask is None else jnp.sum(mask[:, 0])

    def reduce(column):
        column = reduction.each(column)
        if mask is not None:
            column = jnp.where(mask.T[:, :, None], column, reduction.start)
        return reduction.across(column, axis=1)

    total = attend_heads(recurrence, _rows_of(recurrence, rows), reduce)
    return total / number.astype(total.dtype) if reduction.mean else total


def _rows_of(recurrence: OfHeads, rows) -> Int[Array, "q"]:
    return jnp.arange(recurrence.values.shape[1]) if rows is None else rows[0]


def _queries(rows: Any, batch: int, length: int) -> Int[Array, "b q"] | None:
    if rows is None:
        return None
    if getattr(rows, "ndim", 1) == 2:  # those of each sample
        return rows
    chosen = choose_positions(rows, length, "rows")
    return jnp.broadcast_to(chosen[None], (batch, len(chosen)))
