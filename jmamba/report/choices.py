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


def choose_token(tokenizer: Tokenizer, size: int, target: int | str) -> int:
    """Return the id of a token that is given by its text or its id.

    A text that stands for itself comes first, with a space before it where only then it
    is one token; digits that are no token are an id.

    Args:
      tokenizer: the model's.
      size: tokens of the vocabulary.
      target: the token.

    Raises:
      ValueError: it is no single token, or no id of the vocabulary.

    Examples:
      >>> from jmamba.checkpoints import ByteTokenizer
      >>> [choose_token(ByteTokenizer(), 256, one) for one in ("a", 97, "97")]
      [97, 97, 97]
    """
    if isinstance(target, str):
        spelled = [tokenizer.encode(text) for text in (target, f" {target}")]
        for ids in spelled:
            if len(ids) == 1:
                return ids[0]
        if not target.strip().isdecimal():
            cut = " + ".join(repr(piece) for piece in tokenizer.pieces(spelled[0]))
            raise ValueError(
                f"{target!r} is {len(spelled[0])} tokens ({cut}), but a prediction is "
                "one: give the text of one token, or an id."
            )
        target = int(target)
    if not 0 <= target < size:
        raise ValueError(
            f"There is no token {target}: the vocabulary has ids 0 to {size - 1}."
        )
    return target
