"""Vision Mamba among the architectures."""

from jmamba.models.architecture import Architecture, BareFiles, register
from jmamba.models.vim.config import VimConfig
from jmamba.models.vim.keys import (
    LAYOUT,
    RELEASED_FILES,
    TABLES,
    explain_image_mismatch,
)
from jmamba.models.vim.layout import (
    MODEL_TYPE,
    infer_config,
    read_vision_config,
    write_vision_config,
)
from jmamba.models.vim.model import Vim

VIM = register(
    Architecture(
        name=MODEL_TYPE,
        model_class=Vim,
        config_class=VimConfig,
        read_config=lambda raw: (read_vision_config(raw), LAYOUT),
        write_config=write_vision_config,
        tables=TABLES,
        layout_to_write=lambda config: LAYOUT,
        explain=explain_image_mismatch,
        bare=BareFiles(
            layout=LAYOUT, infer_config=infer_config, released=RELEASED_FILES
        ),
        refusal=lambda config: "is a Vision Mamba",
    )
)
"""Vision Mamba."""
