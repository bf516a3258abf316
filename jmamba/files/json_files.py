"""JSON files that others wrote."""

import json
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
        raw = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} holds {type(raw).__name__}, not a JSON object.")
    return raw
