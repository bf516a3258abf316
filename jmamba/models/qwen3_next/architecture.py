"""The Qwen3-Next language model among the architectures."""

from jmamba.models.architecture import Architecture, register
from jmamba.models.hybrid.keys import BASE_PREFIX
from jmamba.models.mixer_keys import tied_copies
from jmamba.models.qwen3_next.config import Qwen3NextConfig
from jmamba.models.qwen3_next.keys import QWEN3_NEXT_TABLES
from jmamba.models.qwen3_next.layout import (
    read_qwen3_next,
    why_no_qwen3_next,
    write_qwen3_next,
)
from jmamba.models.qwen3_next.model import Qwen3NextLM

QWEN3_NEXT = register(
    Architecture(
        name="qwen3_next",
        model_class=Qwen3NextLM,
        config_class=Qwen3NextConfig,
        read_config=read_qwen3_next,
        write_config=write_qwen3_next,
        tables=QWEN3_NEXT_TABLES,
        layout_to_write=lambda config: "hf",
        base_prefix=BASE_PREFIX,
        copies=tied_copies,
        refusal=why_no_qwen3_next,
    )
)
"""Qwen3-Next."""
