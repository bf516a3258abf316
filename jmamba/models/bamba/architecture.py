"""The Bamba language model among the architectures."""

from jmamba.models.architecture import Architecture, register
from jmamba.models.bamba.config import BambaConfig
from jmamba.models.bamba.gguf import BAMBA_GGUF
from jmamba.models.bamba.keys import BAMBA_TABLES
from jmamba.models.bamba.layout import read_bamba, why_no_bamba, write_bamba
from jmamba.models.bamba.model import BambaLM
from jmamba.models.hybrid.keys import BASE_PREFIX
from jmamba.models.mixer_keys import tied_copies

BAMBA = register(
    Architecture(
        name="bamba",
        model_class=BambaLM,
        config_class=BambaConfig,
        read_config=read_bamba,
        write_config=write_bamba,
        tables=BAMBA_TABLES,
        layout_to_write=lambda config: "hf",
        base_prefix=BASE_PREFIX,
        copies=tied_copies,
        refusal=why_no_bamba,
        gguf=BAMBA_GGUF,
    )
)
"""Bamba."""
