"""The Jamba language model among the architectures."""

from jmamba.models.architecture import Architecture, register
from jmamba.models.hybrid.keys import BASE_PREFIX
from jmamba.models.jamba.config import JambaConfig
from jmamba.models.jamba.gguf import JAMBA_GGUF
from jmamba.models.jamba.keys import JAMBA_TABLES
from jmamba.models.jamba.layout import read_jamba, why_no_jamba, write_jamba
from jmamba.models.jamba.model import JambaLM
from jmamba.models.mixer_keys import tied_copies

JAMBA = register(
    Architecture(
        name="jamba",
        model_class=JambaLM,
        config_class=JambaConfig,
        read_config=read_jamba,
        write_config=write_jamba,
        tables=JAMBA_TABLES,
        layout_to_write=lambda config: "hf",
        base_prefix=BASE_PREFIX,
        copies=tied_copies,
        refusal=why_no_jamba,
        gguf=JAMBA_GGUF,
    )
)
"""Jamba."""
