"""Where values pass in a model: their names, and what reads, keeps and edits them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Place(NamedTuple):
    """A name for something that passes, which each kind of layer gives its own.

    Attributes:
      name: what it is called in this package.
      axes: its axes, by the letters of `types`, without that of layers; "" for what is
        no single array.
      says: what it is.
      mamba_lens: what MambaLens calls it, without `blocks.{layer}.`.
      transformer_lens: what TransformerLens calls it, without `blocks.{layer}.`.
      is_mirrored: whether it belongs to a direction that reads from the last token to
        the first. Its values stand in the order of the text all the same.
    """

    name: str
    axes: str
    says: str
    mamba_lens: tuple[str, ...] = ()
    transformer_lens: tuple[str, ...] = ()
    is_mirrored: bool = False

    def under(self, direction: str, *, is_mirrored: bool) -> "Place":
        """Return the same place in one direction of a layer."""
        return Place(
            f"{direction}.{self.name}",
            self.axes,
            f"{self.says}, {direction}",
            is_mirrored=is_mirrored,
        )


class Watch:
    """Edits and notes what passes in one block, each value by its name.

    Layers call it on what they make, `u = at("u", u)`, and go on with what it returns:
    the value itself, where nobody asks.

    Args:
      edit: name -> change(value) -> what passes on in the value's stead.
      show: names of what is noted, as it is after an edit.

    Attributes:
      seen: what was noted, by name.

    Examples:
      >>> at = Watch({"u": lambda u: 2 * u}, ["u"])
      >>> float(at("u", jnp.array(3.0))), float(at("z", jnp.array(1.0)))
      (6.0, 1.0)
      >>> float(at.seen["u"])
      6.0
    """

    def __init__(
        self,
        edit: Mapping[str, Callable[..., Any]] = MappingProxyType({}),
        show: Iterable[str] = (),
    ):
        self.edit, self.show = edit, frozenset(show)
        self.seen: dict[str, Any] = {}
        self.prefix, self.is_mirrored = "", False

    def under(self, direction: str, *, is_mirrored: bool = False) -> "Watch":
        """Return a watch over one direction of a layer, whose names begin with it.

        Args:
          direction: what the names begin with.
          is_mirrored: whether values come from the last token to the first; edits and
            readers get them in the order of the text.
        """
        part = Watch(self.edit, self.show)
        part.seen, part.prefix = self.seen, f"{self.prefix}{direction}."
        part.is_mirrored = is_mirrored
        return part

    def asks(self, *names: str) -> bool:
        """Return whether anybody edits or reads one of the places."""
        own = {self.prefix + name for name in names}
        return not own.isdisjoint(self.show) or not own.isdisjoint(self.edit)

    def __call__(self, name: str, value: Any) -> Any:
        """Return what passes on at a place."""
        key = self.prefix + name
        if key in self.edit:
            value = self._turn(self.edit[key](self._turn(value)))
        self.note(name, value)
        return value

    def shows(self, name: str) -> bool:
        """Return whether somebody reads a place."""
        return self.prefix + name in self.show

    def note(self, name: str, value: Any) -> None:
        """Note a value if somebody reads it."""
        if self.shows(name):
            self.seen[self.prefix + name] = self._turn(value)

    def at_token(self, name: str, value: Any, token: Any, length: int) -> Any:
        """Return what passes on of one token, in a place that is made token by token.

        Args:
          name: of the place, whose edits are change(value, token).
          value: of the token, without an axis of tokens.
          token: which one, as the layer reads them.
          length: how many there are.
        """
        change = self.edit.get(self.prefix + name)
        if change is None:
            return value
        return change(value, length - 1 - token if self.is_mirrored else token)

    def increment(self, name: str, *values: Any) -> Any:
        """Return what an edit adds at a place that is never made as a whole."""
        return self.edit[self.prefix + name](*values)

    def _turn(self, value: Any) -> Any:
        if not self.is_mirrored:
            return value
        return jax.tree.map(lambda x: jnp.flip(x, axis=1), value)


PASS_BY = Watch()
"""Nobody edits and nobody reads."""


class Keeping:
    """A slot for each layer whose reading is kept, and one that all others overwrite.

    Memory grows with the layers that are kept, not with depth.

    Args:
      chosen: which layers.
      layers: of the walk.
    """

    def __init__(self, chosen: Sequence[int], layers: slice):
        self.count = len(chosen)
        self.slots = np.full(layers.stop - layers.start, self.count)
        self.slots[np.asarray(chosen) - layers.start] = range(self.count)

    def empty(self, like: Any) -> Any:
        """Return what holds no readings yet; `like` has the shapes of one."""
        rows = self.count + 1
        return 0, jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), like)

    def put(self, kept: Any, found: Any) -> Any:
        """Return what was kept with the reading of the next layer."""
        index, records = kept
        slot = jnp.asarray(self.slots)[index]
        put = partial(jax.lax.dynamic_update_index_in_dim, index=slot, axis=0)
        return index + 1, jax.tree.map(put, records, found)

    def take(self, kept: Any) -> Any:
        """Return the readings, with a leading axis of chosen layers."""
        return jax.tree.map(lambda x: x[: self.count], kept[1])
