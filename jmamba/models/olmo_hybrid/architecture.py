"""The OLMo-hybrid language model among the architectures."""

from jmamba.models.architecture import Architecture, register
from jmamba.models.hybrid.keys import BASE_PREFIX
from jmamba.models.mixer_keys import tied_copies
from jmamba.models.olmo_hybrid.config import OlmoHybridConfig
from jmamba.models.olmo_hybrid.keys import OLMO_HYBRID_TABLES
from jmamba.models.olmo_hybrid.layout import (
    read_olmo_hybrid,
    why_no_olmo_hybrid,
    write_olmo_hybrid,
)
from jmamba.models.olmo_hybrid.model import OlmoHybridLM

OLMO_HYBRID = register(
    Architecture(
        name="olmo_hybrid",
        model_class=OlmoHybridLM,
        config_class=OlmoHybridConfig,
        read_config=read_olmo_hybrid,
        write_config=write_olmo_hybrid,
        tables=OLMO_HYBRID_TABLES,
        layout_to_write=lambda config: "hf",
        base_prefix=BASE_PREFIX,
        copies=tied_copies,
        refusal=why_no_olmo_hybrid,
    )
)
"""OLMo-hybrid."""
