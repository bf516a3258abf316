"""Names of what passes in a model, in our spelling and in that of others."""

import re
from difflib import get_close_matches
from typing import NamedTuple

from jmamba.layers.model import LayeredModel
from jmamba.layers.places import Place

IN_BLOCK = re.compile(r"(?:blocks|layers)\.(\d+)\.(.+)")
OF_TOKEN = re.compile(r"(hook_h|h)\.(\d+)")


class Spelled(NamedTuple):
    """What a name stands for: a place, and the layer and token that it says with it."""

    place: Place
    layer: int | None = None
    token: int | None = None


def locate_place(model: LayeredModel, name: str) -> Spelled:
    """Return the place that a name stands for.

    Names are this package's (`delta`), MambaLens' or TransformerLens' (`hook_delta`,
    `blocks.3.hook_h.5`, `blocks.3.mixer.conv1d.hook_out`).

    Args:
      model: whose places they are; each kind of layer has its own.
      name: what to look for.

    Raises:
      ValueError: nothing has this name, and the message offers the nearest ones; or
        layers of some kinds alone have it.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> locate_place(model, "blocks.1.hook_delta")[:2]
      (Place(name='delta', ...), 1)
    """
    some = getattr(model.layers, "places_of_some", ())
    rest = _cut(IN_BLOCK, name)[1]
    if rest not in _spellings(model.places) and rest in _spellings(some):
        raise ValueError(
            f"Only some layers of this model have {rest!r}, and interventions take "
            f"what all have. Read it by model.run_layers(x, show=[{rest!r}], "
            f"read=...), or change it by edit={{{rest!r}: change}}."
        )
    return find_spelling(model.places, name)


def find_spelling(places: tuple[Place, ...], name: str) -> Spelled:
    """Return which of some places a name stands for; see `locate_place`."""
    known = _spellings(places)
    layer, rest = _cut(IN_BLOCK, name)
    token, short = _cut(OF_TOKEN, rest)
    for spelling in (rest, short):
        if spelling in known:
            return Spelled(known[spelling], layer, token if spelling == short else None)
    near = get_close_matches(rest, known, n=3, cutoff=0.4)
    near = list(dict.fromkeys(known[one].name for one in near))
    own = ", ".join(place.name for place in places)
    offer = f"the nearest are {', '.join(near)}; " if near else ""
    raise ValueError(f"Nothing is called {name!r} here: {offer}there are {own}.")


def place_table(model: LayeredModel) -> list[tuple[str, ...]]:
    """Return a row of each place: name, axes, what it is, MambaLens, TransformerLens.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> place_table(model)[0]
      ('embedding', 'b l m', 'the residual stream before the first block', ...)
    """
    return [
        (
            place.name,
            " ".join(place.axes),
            place.says,
            ", ".join(place.mamba_lens),
            ", ".join(place.transformer_lens),
        )
        for place in model.places
    ]


def _spellings(places: tuple[Place, ...]) -> dict[str, Place]:
    known = {}
    for place in places:
        for spelling in (place.name, *place.mamba_lens, *place.transformer_lens):
            known.setdefault(spelling, place)
    return known


def _cut(pattern: re.Pattern, name: str) -> tuple[int | None, str]:
    """Return the number in a name and the rest of it."""
    found = pattern.fullmatch(name)
    if found is None:
        return None, name
    first, second = found.groups()
    return (int(first), second) if first.isdigit() else (int(second), first)
