"""The Mamba language model among the architectures."""

from jmamba.models.architecture import Architecture, register
from jmamba.models.dialects import names_classifier, released_tokenizer
from jmamba.models.mamba.config import MambaConfig
from jmamba.models.mamba.gguf import MAMBA_GGUF
from jmamba.models.mamba.keys import TABLES, explain_text_mismatch
from jmamba.models.mamba.layout import (
    MODEL_TYPES,
    layout_to_write,
    owns_config,
    read_config,
    write_config,
)
from jmamba.models.mamba.model import MambaLM
from jmamba.models.mixer_keys import BASE_PREFIX, tied_copies

MAMBA = register(
    Architecture(
        name="mamba",
        model_class=MambaLM,
        config_class=MambaConfig,
        model_types=tuple(MODEL_TYPES),
        owns=lambda raw: owns_config(raw) and not names_classifier(raw),
        read_config=read_config,
        write_config=write_config,
        tables=TABLES,
        layout_to_write=layout_to_write,
        base_prefix=BASE_PREFIX,
        copies=tied_copies,
        explain=explain_text_mismatch,
        refusal=lambda config: (
            None if config.definite == "free" else "holds definite gates"
        ),
        tokenizer_of=released_tokenizer,
        gguf=MAMBA_GGUF,
    )
)
"""Mamba-1 and Falcon-Mamba."""
