"""The Granite 4 H language model among the architectures."""

from jmamba.models.architecture import Architecture, register
from jmamba.models.granite.config import GraniteConfig
from jmamba.models.granite.gguf import GRANITE_GGUF
from jmamba.models.granite.keys import GRANITE_TABLES
from jmamba.models.granite.layout import read_granite, why_no_granite, write_granite
from jmamba.models.granite.model import GraniteLM
from jmamba.models.hybrid.keys import BASE_PREFIX
from jmamba.models.mixer_keys import tied_copies

GRANITE = register(
    Architecture(
        name="granite",
        model_class=GraniteLM,
        config_class=GraniteConfig,
        model_types=("granitemoehybrid",),
        read_config=read_granite,
        write_config=write_granite,
        tables=GRANITE_TABLES,
        layout_to_write=lambda config: "hf",
        base_prefix=BASE_PREFIX,
        copies=tied_copies,
        refusal=why_no_granite,
        gguf=GRANITE_GGUF,
    )
)
"""Granite 4 H."""
