"""What a checkpoint says of its model, wherever it says it."""

from pathlib import Path
from typing import Any

from jmamba.files.gguf_files import is_gguf
from jmamba.files.vocabulary import read_settings
from jmamba.models.architecture import Architecture, find_architecture, registered
from jmamba.models.gguf import read_gguf_settings


def settings_at(place: Path) -> tuple[dict[str, Any], str]:
    """Return what config.json says, or would say of a GGUF file, and what to call it.

    Args:
      place: a folder, or a GGUF file.

    Raises:
      CheckpointError: a file is not there, or cannot be read.
    """
    if is_gguf(place):
        return read_gguf_settings(place), str(place)
    file = place / "config.json"
    return read_settings(file), str(file)


def has_settings(place: Path) -> bool:
    """Say whether a place says what its model is, as bare weight files do not."""
    return is_gguf(place) or (place / "config.json").is_file()


def architecture_at(place: Path) -> Architecture:
    """Return the architecture of a file or folder.

    Raises:
      CheckpointError: it is no checkpoint, or of an unknown architecture.
    """
    if not has_settings(place):
        for one in registered():
            if one.bare is not None and one.bare.includes(place):
                return one
    return find_architecture(*settings_at(place))
