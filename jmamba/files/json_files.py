"""JSON files that others wrote."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jmamba.files.errors import CheckpointError
from jmamba.files.untrusted import check_regular, reading

MOST_BYTES = 2**26
"""Size of the largest file that is read: tokenizers of 260,000 tokens take half."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
      CheckpointError: there is no such file, it is too large, or it does not hold a
        JSON object.
    """
    if not path.exists():
        raise CheckpointError(
            f"{path.parent} holds no {path.name}. A checkpoint is a folder with "
            "config.json and its weights (model.safetensors or pytorch_model.bin)."
        )
    check_regular(path)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise CheckpointError(
            f"{path} has {size:,} bytes, more than any {path.name} needs "
            f"({MOST_BYTES:,}); restore it or download it again."
        )
    with reading(path, "is not valid JSON", "restore it or download it again"):
        raw = json.loads(path.read_text(encoding="utf-8"), object_hook=_decode)
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} holds {type(raw).__name__}, not a JSON object.")
    return raw


_TAG = "__float__"
"""How transformers, from version 5 on, writes numbers that JSON does not have."""


def _decode(content: dict[str, Any]) -> Any:
    tagged = set(content) == {_TAG} and content[_TAG] in ("Infinity", "-Infinity")
    return float(content[_TAG]) if tagged else content


def encode_infinities(content: Any) -> Any:
    """Return what JSON can hold, with infinities as `read_json` reads them.

    Examples:
      >>> encode_infinities({"limit": (0.0, float("inf"))})
      {'limit': [0.0, {'__float__': 'Infinity'}]}
    """
    if isinstance(content, Mapping):
        return {key: encode_infinities(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [encode_infinities(value) for value in content]
    if isinstance(content, float) and math.isinf(content):
        return {_TAG: "Infinity" if content > 0 else "-Infinity"}
    return content
