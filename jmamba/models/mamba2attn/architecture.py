"""The original hybrid of Mamba-2 and attention among the architectures."""

from jmamba.models.architecture import Architecture, register
from jmamba.models.dialects import released_tokenizer
from jmamba.models.mamba2attn.config import Mamba2AttnConfig
from jmamba.models.mamba2attn.keys import MAMBA2ATTN_TABLES
from jmamba.models.mamba2attn.layout import (
    owns_mamba2attn,
    read_mamba2attn,
    write_mamba2attn,
)
from jmamba.models.mamba2attn.model import Mamba2AttnLM
from jmamba.models.mixer_keys import BASE_PREFIX, tied_copies

MAMBA2ATTN = register(
    Architecture(
        name="mamba2attn",
        model_class=Mamba2AttnLM,
        config_class=Mamba2AttnConfig,
        owns=owns_mamba2attn,
        read_config=read_mamba2attn,
        write_config=write_mamba2attn,
        tables=MAMBA2ATTN_TABLES,
        layout_to_write=lambda config: "original",
        base_prefix=BASE_PREFIX,
        copies=tied_copies,
        refusal=lambda config: "is an original hybrid of Mamba-2 and attention",
        tokenizer_of=released_tokenizer,
    )
)
"""Mamba-2 with some layers of attention."""
