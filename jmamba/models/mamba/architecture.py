"""The Mamba language model among the architectures."""

from jmamba.models.architecture import Architecture, register
from jmamba.models.mamba.config import MambaConfig
from jmamba.models.mamba.keys import (
    BASE_PREFIX,
    EMBEDDING_PATH,
    HEAD_KEY,
    TABLES,
    explain_text_mismatch,
)
from jmamba.models.mamba.layout import (
    MODEL_TYPES,
    NEOX,
    layout_to_write,
    owns_config,
    read_config,
    write_config,
)
from jmamba.models.mamba.model import MambaLM

MAMBA = register(
    Architecture(
        name="mamba",
        model_class=MambaLM,
        config_class=MambaConfig,
        model_types=tuple(MODEL_TYPES),
        owns=owns_config,
        read_config=read_config,
        write_config=write_config,
        tables=TABLES,
        layout_to_write=layout_to_write,
        base_prefix=BASE_PREFIX,
        copies=lambda config: (
            {HEAD_KEY: EMBEDDING_PATH} if config.tie_embeddings else {}
        ),
        explain=explain_text_mismatch,
        refusal=lambda config: (
            None if config.definite == "free" else "holds definite gates"
        ),
        tokenizer_of=lambda raw: None if "model_type" in raw else NEOX,
    )
)
"""Mamba-1 and Falcon-Mamba."""
