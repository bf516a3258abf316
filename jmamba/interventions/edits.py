"""Edits: what is done to something that passes, and where."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jmamba.interventions.points import Point, Selection
from jmamba.requests import as_key
from jmamba.types import ArrayLike, KeyLike

OPS: dict[str, Callable[[Any, Any], Any]] = {
    "replace": lambda value, given: jnp.broadcast_to(given, value.shape),
    "add": lambda value, given: value + jnp.broadcast_to(given, value.shape),
    "scale": lambda value, given: value * jnp.broadcast_to(given, value.shape),
    "zero": lambda value, given: jnp.zeros_like(value),
    "mean": lambda value, given: jnp.broadcast_to(
        jnp.mean(value, axis=(0, 1), keepdims=True), value.shape
    ),
    "resample": lambda value, given: jnp.roll(value, given, axis=0),
}
"""What becomes of a value, of it and of what an edit was given."""

SETTING = ("replace", "zero", "mean", "resample")
"""Ops that leave nothing of what another one set before."""

VALUED = ("replace", "add", "scale")
"""Ops that need a value of the place's shape."""

CUT = "cut"
"""The op of attention's pairs."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["point", "value", "is_on"],
    meta_fields=["op"],
)
@dataclasses.dataclass(frozen=True)
class Edit:
    """A change of what passes at a point.

    A pytree: the place's name and the op are static, all else is traced. One program
    does the same edit at any layer, token and channel, with any value.

    Attributes:
      point: where.
      op: one of `OPS`, or "cut".
      value: what the op needs: of the shape of a sample's batch at the place, or one
        that broadcasts to it; with a leading axis of layers, of each layer its own.
      is_on: whether anything is done.

    Examples:
      >>> zero("output", layers=3).op
      'zero'
    """

    point: Point
    op: str
    value: Any = None
    is_on: Any = True


def replace(name: str, value: Array | ArrayLike | float, **where: Selection) -> Edit:
    """Replace what passes by a value.

    Args:
      name: of the place, see `locate_place`.
      value: broadcasts to (b, l, ...) of the place, or (s, b, l, ...) with an axis of
        the chosen layers, or of all.
      **where: `layers`, `positions`, `channels`, `heads`, `states`; see `Point`.

    Examples:
      >>> replace("z", 0.0, layers=[1, 2]).point.layers.tolist()
      [1, 2]
    """
    return Edit(Point(name, **where), "replace", jnp.asarray(value))


def add(name: str, value: Array | ArrayLike | float, **where: Selection) -> Edit:
    """Add a value to what passes: with a vector at "residual_out", steering.

    Args:
      name: of the place.
      value: as in `replace`.
      **where: as in `replace`.

    Examples:
      >>> add("residual_out", jnp.ones(16), layers=2).op
      'add'
    """
    return Edit(Point(name, **where), "add", jnp.asarray(value))


def scale(name: str, value: Array | ArrayLike | float, **where: Selection) -> Edit:
    """Multiply what passes.

    Args:
      name: of the place.
      value: as in `replace`.
      **where: as in `replace`.

    Examples:
      >>> scale("delta", 0.5).op
      'scale'
    """
    return Edit(Point(name, **where), "scale", jnp.asarray(value))


def zero(name: str, **where: Selection) -> Edit:
    """Put zero in the place of what passes.

    Args:
      name: of the place: "output" ablates layers, "gated" channels or heads of them,
        "conv_past" what the convolution reads of earlier tokens.
      **where: as in `replace`.

    Examples:
      >>> zero("gated", heads=[0, 3]).point.heads.tolist()
      [0, 3]
    """
    return Edit(Point(name, **where), "zero")


def average(name: str, **where: Selection) -> Edit:
    """Put the mean over all tokens and samples of the run in the place of each.

    Args:
      name: of the place.
      **where: as in `replace`.

    Examples:
      >>> average("output", layers=1).op
      'mean'
    """
    return Edit(Point(name, **where), "mean")


def resample(name: str, batch: int, key: KeyLike | None = None, **where) -> Edit:
    """Give each sample of a batch what passes in another one.

    Args:
      name: of the place.
      batch: how many samples the inputs have, two at least.
      key: draws how far apart the two are.
      **where: as in `replace`.

    Raises:
      ValueError: there is no other sample.

    Examples:
      >>> 1 <= int(resample("output", batch=4, key=0).value) <= 3
      True
    """
    if batch < 2:
        raise ValueError(
            f"resample takes another sample's activation, and there are {batch}: give "
            "inputs of several samples, or replace(name, value)."
        )
    shift = jax.random.randint(as_key(key, "resample"), (), 1, batch)
    return Edit(Point(name, **where), "resample", shift)


def cut_attention(
    pairs: Int[Array, "p 2"] | ArrayLike, *, name: str = "alpha", **where: Selection
) -> Edit:
    """Cut pairs of hidden attention: token i no longer reads token j.

        y[i] -= alpha[i, j] u[j]

    Exactly these weights are gone. All others stay as they are, those of later tokens
    that read j among them, and so do D u and the convolution.

    Args:
      pairs: (i, j), of tokens of which i reads j; each pair once.
      name: "alpha", or of a direction "forward.alpha" or "backward.alpha".
      **where: `layers`, `channels` and `heads`, as in `replace`.

    Examples:
      >>> cut_attention([(4, 1), (4, 2)], layers=3).value.shape
      (2, 2)

    References:
      Geva et al., "Dissecting recall of factual associations", arXiv 2304.14767,
      section 4, for attention; here for the matrices of Ali et al., ACL 2025, eq. 14.
    """
    return Edit(Point(name, **where), CUT, jnp.asarray(pairs, jnp.int32))
