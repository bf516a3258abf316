"""Tokens as a checkpoint's files tell them: which end a text, how many there are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jmamba.files.folders import read_json
from jmamba.files.tokenizer import BYTES

GENERATION_CONFIG = "generation_config.json"
"""The file whose end tokens win over those of config.json, as in transformers."""

TOKENIZER = "tokenizer.json"


def read_settings(config: Path) -> dict[str, Any]:
    """Return a config.json, corrected by what the files beside it say of tokens.

    A generation_config.json says which tokens end a text, be it none; a tokenizer.json,
    or "tokenizer": "bytes", how many tokens there are: rows of the table from there on
    are padding.

    Args:
      config: the file.

    Raises:
      CheckpointError: a file is not there, or no JSON object.
    """
    raw = read_json(config)
    generation = config.parent / GENERATION_CONFIG
    if generation.is_file():
        raw["eos_token_id"] = read_json(generation).get("eos_token_id")
    count = count_tokens(raw, config.parent / TOKENIZER)
    rows = raw.get("vocab_size")
    if count is not None and isinstance(rows, int) and count < rows:
        raw.setdefault("unpadded_vocab_size", count)
    return raw


def end_tokens(raw: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the ids that end a text; () if a configuration names none.

    Examples:
      >>> end_tokens({"eos_token_id": [2, 5]}), end_tokens({"eos_token_id": None})
      ((2, 5), ())
    """
    ids = raw.get("eos_token_id")
    listed = ids if isinstance(ids, list | tuple) else [ids]
    return tuple(i for i in listed if isinstance(i, int))


def count_tokens(raw: Mapping[str, Any], tokenizer: Path) -> int | None:
    """Return how many ids stand for a token, end tokens included; None if unknown.

    Args:
      raw: what config.json says.
      tokenizer: where a tokenizer.json may be.
    """
    if raw.get("tokenizer") == BYTES:
        ids = [255]
    elif tokenizer.is_file():
        content = read_json(tokenizer)
        found = content.get("model", {}).get("vocab", {})  # a dict, or a list of pairs
        ids = list(found.values() if isinstance(found, dict) else range(len(found)))
        ids += [token["id"] for token in content.get("added_tokens", [])]
    else:
        ids = []
    return 1 + max([*ids, *end_tokens(raw)]) if ids else None
