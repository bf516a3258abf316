"""Tokens as a checkpoint's files tell them: which end a text, how many there are."""

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jmamba.files.errors import CheckpointError
from jmamba.files.folders import GENERATION_CONFIG, TOKENIZER
from jmamba.files.json_files import read_json
from jmamba.files.tokenizer import BYTES
from jmamba.files.untrusted import reading


def read_generation(folder: Path) -> dict[str, Any] | None:
    """Return the generation_config.json of a folder; None if there is none.

    Its end tokens win over those of config.json, be they none, as in transformers.

    Raises:
      CheckpointError: it is no JSON object.
    """
    file = folder / GENERATION_CONFIG
    return read_json(file) if file.is_file() else None


def read_settings(config: Path) -> dict[str, Any]:
    """Return a config.json, with what the files beside it say of its vocabulary.

    A tokenizer.json, or "tokenizer": "bytes", says how many tokens there are: rows of
    the table from there on are padding.

    Args:
      config: the file.

    Raises:
      CheckpointError: a file is not there, or no JSON object.
    """
    raw = read_json(config)
    ends = end_tokens(raw, read_generation(config.parent))
    count = count_tokens(raw, config.parent / TOKENIZER, ends)
    rows = raw.get("vocab_size")
    if count is not None and isinstance(rows, int) and count < rows:
        raw.setdefault("unpadded_vocab_size", count)
    return raw


def end_tokens(
    raw: Mapping[str, Any], generation: Mapping[str, Any] | None = None
) -> tuple[int, ...]:
    """Return the ids that end a text; () if there are none.

    Args:
      raw: what config.json says.
      generation: what generation_config.json says, which wins.

    Raises:
      CheckpointError: they are no ids.

    Examples:
      >>> end_tokens({"eos_token_id": [2, 5]}), end_tokens({"eos_token_id": None})
      ((2, 5), ())
      >>> end_tokens({"eos_token_id": 2}, {"eos_token_id": 7})
      (7,)
    """
    ids = (raw if generation is None else generation).get("eos_token_id")
    listed = ids if isinstance(ids, list | tuple) else [] if ids is None else [ids]
    if not all(map(is_token_id, listed)):
        where = "config.json" if generation is None else GENERATION_CONFIG
        raise CheckpointError(
            f"eos_token_id in {where} must be the id of a token, several or null, but "
            f"is {reprlib.repr(ids)}."
        )
    return tuple(listed)


def is_token_id(x: Any) -> bool:
    """Say whether something may be the id of a token.

    Examples:
      >>> [is_token_id(x) for x in (3, -1, True, 2.0, "3")]
      [True, False, False, False, False]
    """
    return isinstance(x, int) and not isinstance(x, bool) and x >= 0


def count_tokens(
    raw: Mapping[str, Any], tokenizer: Path, ends: tuple[int, ...]
) -> int | None:
    """Return how many ids stand for a token, end tokens included; None if unknown.

    Args:
      raw: what config.json says.
      tokenizer: where a tokenizer.json may be.
      ends: ids that end a text.
    """
    if raw.get("tokenizer") == BYTES:
        ids = [255]
    elif tokenizer.is_file():
        ids = _listed_ids(tokenizer)
    else:
        ids = []
    return 1 + max([*ids, *ends]) if ids else None


def _listed_ids(tokenizer: Path) -> list[int]:
    """Return the ids that a tokenizer.json gives to tokens."""
    content = read_json(tokenizer)
    with reading(tokenizer, "is no tokenizer"):
        found = content.get("model", {}).get("vocab", {})  # a dict, or a list of pairs
        ids = list(found.values() if isinstance(found, dict) else range(len(found)))
        ids += [token["id"] for token in content.get("added_tokens") or []]
        if not all(map(is_token_id, ids)):
            raise CheckpointError(f"{tokenizer} gives tokens ids that are none.")
    return ids
