"""Which function loads which model."""

from collections.abc import Callable

from jmamba.models.mamba.loading import load
from jmamba.models.mamba.model import MambaLM
from jmamba.models.vim.loading import load_vim
from jmamba.models.vim.model import Vim

LOADERS: dict[type, Callable] = {MambaLM: load, Vim: load_vim}
"""Model -> function that loads it."""


def loader_of(model: type) -> Callable:
    """Return the function that loads models of a class.

    Examples:
      >>> loader_of(Vim).__name__
      'load_vim'
    """
    return next(load for kind, load in LOADERS.items() if issubclass(model, kind))
