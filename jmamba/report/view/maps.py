"""What a view shades tokens by: numbers of each token, and of each pair of tokens."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

ALL = "all channels"
"""What a map is of that leaves no channel out."""


class Series(NamedTuple):
    """A number of each piece of a text, or one in every layer.

    Attributes:
      name: what menus call it.
      values: of each piece, NaN where it is not known; one row for each of `layers`.
      unit: of the values, "" for none.
      toward, against: what positive and negative values say, in words.
      layers: what the layers are called; none where there is one row for all.
      words: what is said of each piece beside its value, likewise; none for nothing.
    """

    name: str
    values: Float[np.ndarray, "s p"]
    unit: str
    toward: str
    against: str = ""
    layers: tuple[str, ...] = ()
    words: Sequence[Sequence[str]] = ()


class PairMap(NamedTuple):
    """How much each piece of a text reads each piece, as shares of all that it reads.

    Attributes:
      name: what menus call the measure.
      shares: row i is what piece i reads, and sums to 1 or is zero; of one row only,
        what the last piece reads.
      layers: what the layers are called; none for one map through all of them.
      of: the channels or heads that it is of.
      about: what is measured, in plain words.
    """

    name: str
    shares: Float[np.ndarray, "s q p"]
    layers: tuple[str, ...] = ()
    of: str = ALL
    about: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether every piece has a row."""
        return self.shares.shape[1] == self.shares.shape[2]

    @property
    def title(self) -> str:
        """The measure, and what it is of unless that is everything."""
        return self.name if self.of == ALL else f"{self.name}, {self.of}"

    @property
    def rows(self) -> Float[np.ndarray, "s n"]:
        """What pages store: the rows one after the other, nothing ahead of a reader."""
        if not self.is_whole:
            return self.shares[:, 0]
        return self.shares[:, *np.tril_indices(self.shares.shape[1])]

    def of_last(self) -> "PairMap":
        """Return what only the last piece reads."""
        return self._replace(shares=self.shares[:, -1:])


def name_layers(layers: Sequence[int]) -> tuple[str, ...]:
    """Return what a view calls layers.

    Examples:
      >>> name_layers(range(2))
      ('layer 0', 'layer 1')
    """
    return tuple(f"layer {k}" for k in layers)
