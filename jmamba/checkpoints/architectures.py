"""Which function loads which model."""

from collections.abc import Callable

from jmamba.checkpoints.loading import load
from jmamba.checkpoints.vision import load_vim
from jmamba.models.language_model import MambaLM
from jmamba.models.vision import Vim

LOADERS: dict[type, Callable] = {MambaLM: load, Vim: load_vim}
"""Model -> function that loads it."""


def loader_of(model: type) -> Callable:
    """Return the function that loads models of a class.

    Examples:
      >>> loader_of(Vim).__name__
      'load_vim'
    """
    return next(load for kind, load in LOADERS.items() if issubclass(model, kind))
