"""What `nnx.tabulate` needs of a model: calls it can show, and classes left whole."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from flax import nnx
from flax.nnx import summary

Call = TypeVar("Call", bound=Callable[..., Any])


def tabulated(call: Call) -> Call:
    """Return a model's `__call__` such that `nnx.tabulate` shows the model.

    To draw a table, flax replaces all methods of all classes in a model. It cannot show
    those that take or return more than arrays, so that only calls of modules are left
    to it. And it puts methods back only if nothing was raised: otherwise no model of
    these classes, and no `nnx.Linear`, would work again in the process.

    Args:
      call: the method.
    """

    @functools.wraps(call)
    def shown(self, *args, **kwargs):
        if not hasattr(self, "_nnx_tabulate_id"):  # flax's mark of a model in a table
            return call(self, *args, **kwargs)
        kinds = {type(node) for _, node in nnx.iter_graph(self)}
        try:
            _restore_methods(kinds, lambda name: name != "__call__")
            return call(self, *args, **kwargs)
        except Exception:
            _restore_methods(kinds, lambda name: True)
            raise

    return shown  # pyright: ignore[reportReturnType] (the same signature)


def _restore_methods(kinds: set[type], is_meant: Callable[[str], bool]) -> None:
    """Put back methods that flax has wrapped."""
    for kind in kinds:
        for name, method in inspect.getmembers(kind, inspect.isfunction):
            is_wrapper = method.__globals__ is vars(summary)
            if is_wrapper and is_meant(name) and hasattr(method, "__wrapped__"):
                setattr(kind, name, vars(method)["__wrapped__"])
