"""The configuration of a model by its name, or of a folder."""

from pathlib import Path
from typing import Any

from jmamba.files.json_files import read_json
from jmamba.models.architecture import find_architecture
from jmamba.models.mamba.config import MambaConfig
from jmamba.models.mamba2.config import Mamba2Config
from jmamba.models.vim.config import VimConfig

_KINDS = {"mamba2": Mamba2Config, "vim": VimConfig}
"""How names of configurations begin; others are Mamba-1's."""


def find_config(name: str) -> Any:
    """Return a configuration.

    Args:
      name: of a released model, mamba-2.8b or 2.8b, mamba2-1.3b, vim-tiny; or a folder
        with a config.json.

    Raises:
      ValueError: the name is unknown, or the folder holds none of jmamba.

    Examples:
      >>> find_config("2.8b").d_model, find_config("vim-tiny").d_model
      (2560, 192)
    """
    file = Path(name) / "config.json"
    if file.is_file():
        raw = read_json(file)
        return find_architecture(raw, str(file)).read(raw, str(file))[0]
    kind = _KINDS.get(name.split("-")[0], MambaConfig)
    full = f"mamba-{name}" if name[:1].isdecimal() else name
    try:
        return kind.named(full)
    except ValueError as error:
        raise ValueError(
            f"{error} Others begin with mamba2- or vim-, or give a folder with a "
            "config.json."
        ) from error
