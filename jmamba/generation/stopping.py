"""Strings that end a text, as `generate` is given them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jmamba.generation.request import Request
from jmamba.generation.text_stream import StopStrings


def make_stop(
    strings: str | Sequence[str], tokenizer: Any, request: Request
) -> StopStrings | None:
    """Return what finds the rows that some strings end; None for no strings.

    Args:
      strings: what ends a text.
      tokenizer: anything with `decode`.
      request: the prompts, or what a generation goes on from.

    Raises:
      ValueError: a string is empty, or there is no tokenizer.
    """
    strings = (strings,) if isinstance(strings, str) else tuple(strings)
    if not strings:
        return None
    if not all(isinstance(x, str) and x for x in strings):
        raise ValueError(
            f"generate: stop_strings must be texts of at least one character, but are "
            f"{strings!r}. Ids of tokens go in as stop_tokens."
        )
    if not hasattr(tokenizer, "decode"):
        raise ValueError(
            "generate: stop_strings need a tokenizer to decode new tokens. Add "
            "tokenizer=load_tokenizer(folder_or_hub_id) of jmamba.checkpoints."
        )
    silent = set(np.asarray(request.stop_tokens).tolist())
    return StopStrings(strings, tokenizer.decode, _contexts(request), silent=silent)


def _contexts(request: Request) -> list[list[int]]:
    """Return the tokens of each row before the first new one."""
    texts, start = request.texts, request.start
    if start is not None:
        rows = zip(np.asarray(start.tokens), start.lengths.tolist(), strict=True)
        return [row[:length].tolist() for row, length in rows]
    assert texts is not None
    if texts.tokens is None:
        return [[]] * texts.shape[0]
    rows = zip(np.asarray(texts.tokens), np.asarray(texts.mask), strict=True)
    return [row[mask].tolist() for row, mask in rows]
