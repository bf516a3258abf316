"""What a report is asked for, and whether a model answers in numbers."""

import inspect
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jmamba.attention import METHODS
from jmamba.attention.relevance.settings import choose_settings
from jmamba.files.tokenizer import Tokenizer
from jmamba.requests import choose_layers

DEFAULT_METHOD = "mamba_lrp"

USUAL = {
    name: inspect.signature(of).parameters["settings"].default
    for name, of in METHODS.items()
    if "settings" in inspect.signature(of).parameters
}
"""Settings of the methods that have some, where papers and released code differ."""


def check_question(
    method: str, settings: str | None = None, top: int = 5
) -> str | None:
    """Return the settings of a method, None if it has none.

    Raises:
      ValueError: the method or the settings are unknown or do not go together, or `top`
        is less than 1.
    """
    if method not in METHODS:
        raise ValueError(
            f"Unknown method {method!r}: give one of {', '.join(METHODS)}."
        )
    if settings is not None and method not in USUAL:
        raise ValueError(
            f"settings={settings!r} is for {', '.join(USUAL)}; {method} takes none."
        )
    if top < 1:
        raise ValueError(f"top must be at least 1, but is {top}.")
    if settings is not None:
        choose_settings(settings)
    return USUAL.get(method) if settings is None else settings


def choose_large_layers(layers: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """Return the layers to draw large: the ones asked for, or four through the depth.

    Raises:
      ValueError: a layer does not exist.

    Examples:
      >>> choose_large_layers(None, 24), choose_large_layers([-1, 3], 24)
      ((6, 12, 18, 23), (3, 23))
    """
    if layers is None:
        layers = [count // 4, count // 2, 3 * count // 4, count - 1]
    return choose_layers(layers, count)


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the token ids of a text.

    Raises:
      ValueError: the text has no tokens.
    """
    ids = tokenizer.encode(text) if text else []
    if not ids:
        raise ValueError(
            "The text is empty. Give at least one character, such as "
            '"The capital of France is".'
        )
    return ids


def check_logits(logits: Float[np.ndarray, "v"], name: str) -> None:
    """Raise unless the logits are numbers.

    Raises:
      ValueError: one is NaN or infinite.
    """
    if not np.isfinite(logits).all():
        raise ValueError(
            f"The logits of {name} are not finite: its weights hold NaN or infinity, "
            "or overflow in this dtype. Check the checkpoint, or ask for float32."
        )
