"""How tokens read each other: groups of channels, all folded in, rolled out."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from jmamba.attention import FOLDS, factorise, hidden_attention, reduced_attention
from jmamba.types import SoftmaxAttention

QUARTERS = (
    "nearest quarter of channels",
    "second quarter of channels",
    "third quarter of channels",
    "farthest quarter of channels",
)
"""Channels by how far back they read, on average."""

MOST_HEADS = 32
"""Most heads of a layer, in Mamba-1 channels, that are kept one by one."""


class LayerPairs(NamedTuple):
    """One layer, token by token; row i is the token that reads.

    Attributes:
      groups: channels -> mean |alpha| over them.
      folded: mean |alpha| over channels with all that is around the recurrence.
      mean: alpha, signed, averaged over channels: what is rolled out.
    """

    groups: dict[str, Float[np.ndarray, "l l"]]
    folded: Float[np.ndarray, "l l"]
    mean: Float[np.ndarray, "l l"]


class Pairs(NamedTuple):
    """All layers; `s` counts them.

    Attributes:
      groups: channels -> mean |alpha| over them, in every layer.
      folded: mean |gate (alpha + D) slope conv| over channels.
      rollout: the product of I + mean alpha over layers, the last one on the left.
    """

    groups: dict[str, Float[np.ndarray, "s l l"]]
    folded: Float[np.ndarray, "s l l"]
    rollout: Float[np.ndarray, "l l"]


def measure_layer_pairs(
    block: Any, recurrence: Any, x: Float[Array, "1 l m"]
) -> LayerPairs:
    """Return how tokens read each other in a layer.

    Args:
      block: the layer.
      recurrence: what it projects x to.
      x: the residual stream entering it.
    """
    alpha = np.asarray(hidden_attention(recurrence)[0], np.float32)
    inputs, fold = recurrence, ()
    if not isinstance(recurrence, SoftmaxAttention):  # around which there is nothing
        inputs, fold = factorise(block, x), FOLDS
    folded = reduced_attention(inputs, "mean_abs", fold=fold)[0]
    return LayerPairs(
        groups=_split(np.abs(alpha)),
        folded=np.asarray(folded, np.float32),
        mean=alpha.mean(axis=0),
    )


def join_pairs(layers: Sequence[LayerPairs]) -> Pairs:
    """Return layers together; of groups, those that every layer has."""
    names = [k for k in layers[0].groups if all(k in one.groups for one in layers)]
    return Pairs(
        {k: np.stack([one.groups[k] for one in layers]) for k in names},
        np.stack([one.folded for one in layers]),
        roll_out_matrices([one.mean for one in layers]),
    )


def roll_out_matrices(
    layers: Sequence[Float[np.ndarray, "l l"]],
) -> Float[np.ndarray, "l l"]:
    """Return the rollout from every token at once; row i is token i's.

        (I + E_d alpha[last]) ... (I + E_d alpha[first])

    Args:
      layers: the mean attention of each.

    Examples:
      >>> half = np.full((2, 2), 0.5, np.float32)
      >>> roll_out_matrices([half, half]).tolist()
      [[2.5, 1.5], [1.5, 2.5]]

    References:
      Ali, Zimerman & Wolf, ACL 2025, equations 21 and 22.
    """
    rho = np.eye(len(layers[0]), dtype=np.float32)
    for alpha in layers:
        rho = rho + alpha @ rho
    return rho


def reach(alpha: Float[np.ndarray, "c l l"]) -> Float[np.ndarray, "c"]:
    """Return how many tokens back each channel reads on average.

        sum_ij |i - j| |alpha[i, j]| / sum_ij |alpha[i, j]|

    Args:
      alpha: magnitudes.

    Examples:
      >>> reach(np.array([[[1.0, 0.0], [1.0, 2.0]]])).tolist()
      [0.25]
    """
    places = np.arange(alpha.shape[-1])
    apart = np.abs(places[:, None] - places)
    total = alpha.sum(axis=(1, 2))
    return (alpha * apart).sum(axis=(1, 2)) / np.where(total > 0, total, 1)


def _split(alpha):
    """Return the mean of each quarter of the channels, and of each of few channels."""
    groups, count = {}, len(alpha)
    if count >= len(QUARTERS):
        order = np.argsort(reach(alpha), kind="stable")
        parts = np.array_split(order, len(QUARTERS))
        groups |= {
            k: alpha[i].mean(axis=0) for k, i in zip(QUARTERS, parts, strict=True)
        }
    if count <= MOST_HEADS:
        groups |= {f"head {k}": alpha[k] for k in range(count)}
    return groups
