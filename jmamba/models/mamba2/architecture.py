"""The Mamba-2 language model among the architectures."""

from jmamba.models.architecture import Architecture, register
from jmamba.models.dialects import names_classifier, released_tokenizer
from jmamba.models.mamba2.config import Mamba2Config
from jmamba.models.mamba2.gguf import MAMBA2_GGUF
from jmamba.models.mamba2.keys import MAMBA2_TABLES, explain_mamba2_mismatch
from jmamba.models.mamba2.layout import (
    owns_mamba2,
    read_mamba2,
    why_only_ours,
    write_mamba2,
)
from jmamba.models.mamba2.model import Mamba2LM
from jmamba.models.mixer_keys import BASE_PREFIX, tied_copies

MAMBA2 = register(
    Architecture(
        name="mamba2",
        model_class=Mamba2LM,
        config_class=Mamba2Config,
        owns=lambda raw: owns_mamba2(raw) and not names_classifier(raw),
        read_config=read_mamba2,
        write_config=write_mamba2,
        tables=MAMBA2_TABLES,
        layout_to_write=lambda config: "hf",
        base_prefix=BASE_PREFIX,
        copies=tied_copies,
        explain=explain_mamba2_mismatch,
        refusal=why_only_ours,
        tokenizer_of=released_tokenizer,
        gguf=MAMBA2_GGUF,
    )
)
"""Mamba-2."""
