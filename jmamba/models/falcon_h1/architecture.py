"""The Falcon-H1 language model among the architectures."""

from jmamba.models.architecture import Architecture, register
from jmamba.models.falcon_h1.config import FalconH1Config
from jmamba.models.falcon_h1.gguf import FALCON_H1_GGUF
from jmamba.models.falcon_h1.keys import FALCON_H1_TABLES
from jmamba.models.falcon_h1.layout import (
    read_falcon_h1,
    why_no_falcon_h1,
    write_falcon_h1,
)
from jmamba.models.falcon_h1.model import FalconH1LM
from jmamba.models.hybrid.keys import BASE_PREFIX
from jmamba.models.mixer_keys import tied_copies

FALCON_H1 = register(
    Architecture(
        name="falcon_h1",
        model_class=FalconH1LM,
        config_class=FalconH1Config,
        read_config=read_falcon_h1,
        write_config=write_falcon_h1,
        tables=FALCON_H1_TABLES,
        layout_to_write=lambda config: "hf",
        base_prefix=BASE_PREFIX,
        copies=tied_copies,
        refusal=why_no_falcon_h1,
        gguf=FALCON_H1_GGUF,
    )
)
"""Falcon-H1."""
