"""Relevance by one method or by all of them, and what they said on the way."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jmamba.attention import METHODS
from jmamba.report.choices import USUAL


class Relevance(NamedTuple):
    """What methods of explanation found.

    Attributes:
      by: method -> relevance, the method that was asked for first.
      refused: method -> why it could not be had.
      warned: method -> what it warned of.
    """

    by: dict[str, np.ndarray]
    refused: dict[str, str]
    warned: dict[str, str]

    @property
    def notes(self) -> dict[str, dict[str, str]]:
        """What a report's settings say of it: nothing if all went well."""
        both = {"refused": self.refused, "warned": self.warned}
        return {name: said for name, said in both.items() if said}


def measure_relevance(
    ask: Callable[..., np.ndarray],
    method: str,
    settings: str | None,
    *,
    all_methods: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Relevance:
    """Return the relevance that a method finds, and all others if that is asked for.

    Args:
      ask: called as ask(method, **options), returns relevance.
      method: a name in `METHODS`; it must not refuse.
      settings: of the method; the others have their usual ones.
      all_methods: whether to ask all others too.
      progress: called as progress(done, total).

    Raises:
      ValueError: as the method says, or its relevance is not finite.
    """
    found, refused, warned = {}, {}, {}
    names = [method, *(name for name in METHODS if all_methods and name != method)]
    for done, name in enumerate(names):
        chosen = settings if name == method else USUAL.get(name)
        options: dict[str, Any] = {} if chosen is None else {"settings": chosen}
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            try:
                found[name] = _finite(ask(name, **options), name)
            except ValueError as error:
                if name == method:
                    raise
                refused[name] = str(error)
        if said:
            warned[name] = " ".join(str(one.message) for one in said)
        progress(done + 1, len(names))
    return Relevance(found, refused, warned)


def _finite(values: np.ndarray, method: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ValueError(
            f"The relevance that {method} finds is not finite: the model overflows in "
            "this dtype. Ask for float32, or another method."
        )
    return values
