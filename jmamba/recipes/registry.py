"""The experiments by name, each a module that is imported when it is run."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jmamba.recipes.workbench import Workbench


class Recipe(NamedTuple):
    """An experiment.

    A module of this package is one: it has `SIZES`, a dictionary of frozen dataclasses
    by the names "quick" (a minute, to see that it works), "cpu" (what the published
    results were made with) and "large", whose `least_bytes()` says the memory that a
    run takes at least, and `run(config, bench)`.

    Attributes:
      sizes: the configurations by name.
      run: runs the experiment and leaves tables and figures on the workbench.
    """

    sizes: Mapping[str, Any]
    run: Callable[[Any, Workbench], None]


RECIPES: dict[str, str] = {
    "vision": "perturbation and segmentation of what explains a Vim, beside a ViT",
    "text": "faithfulness of what explains a sentiment, and agreement with lexicons",
    "planted-text": "whether explanations find the word that is known to decide",
    "attention-figures": "attention maps through depth, channels, class tokens",
    "language": "gates that exclude the convergent scenario, on text",
    "reordering": "tokens sorted by importance in a Vision Mamba",
    "count-in-row": "a trained channel counts runs of ones, attention does not",
    "dynamics-figures": "the three scenarios of token dynamics in seven figures",
}
"""Name -> what it shows, in one line. The module has the name with underscores."""


def load_recipe(name: str) -> Recipe:
    """Return a recipe by its name.

    Raises:
      ValueError: there is no such recipe; the message lists those there are.
    """
    if name not in RECIPES:
        known = "\n".join(f"  {name}: {line}" for name, line in RECIPES.items())
        raise ValueError(f"Unknown recipe {name!r}; there are\n{known}")
    module = importlib.import_module(f"jmamba.recipes.{name.replace('-', '_')}")
    return Recipe(module.SIZES, module.run)
