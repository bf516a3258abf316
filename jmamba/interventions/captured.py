"""What passed in a run, by name."""

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np

from jmamba.interventions.names import find_spelling
from jmamba.layers.places import Place


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["logits", "values"],
    meta_fields=["layers", "positions", "places"],
)
@dataclasses.dataclass(frozen=True)
class Captured:
    """What was asked for of a run, and the logits that it ended with.

    `captured["delta"]` is an array with a leading axis of the layers, as are all but
    those of places outside of the layers; `captured["blocks.3.hook_delta"]` that of one
    layer.

    Attributes:
      logits: of the next token at each place, or of the classes.
      values: name -> what passed.
      layers: which layers these are.
      positions: which tokens; None for all.
      places: of the model.
    """

    logits: Any
    values: dict[str, Any]
    layers: tuple[int, ...]
    positions: tuple[int, ...] | None
    places: tuple[Place, ...]

    def __getitem__(self, name: str) -> Any:
        """Return what passed at a place, by any of its names.

        Raises:
          KeyError: it was not captured, or of a layer or token that was not.
          ValueError: nothing has this name.
        """
        place, layer, token = find_spelling(self.places, name)
        if place.name not in self.values:
            raise KeyError(
                f"{place.name!r} was not captured, only {', '.join(self.values)}; type "
                f"capture(..., names=[{place.name!r}])."
            )
        value = self.values[place.name]
        if layer is not None:
            value = value[_index(self.layers, layer, "layers")]
        if token is not None:
            tokens = self.positions or tuple(range(value.shape[-3]))
            value = value[..., _index(tokens, token, "positions"), :, :]
        return value

    def __repr__(self) -> str:
        """Return what was captured, without the numbers."""
        shapes = ", ".join(f"{k} {np.shape(v)}" for k, v in self.values.items())
        return f"Captured of layers {list(self.layers)}: {shapes or 'logits only'}"


def _index(have: tuple[int, ...], wanted: int, name: str) -> int:
    if wanted not in have:
        raise KeyError(f"{name} {list(have)} were captured, not {wanted}.")
    return have.index(wanted)
