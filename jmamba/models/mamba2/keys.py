"""Names of a Mamba-2 language model's tensors: mamba-ssm's and transformers'."""

from collections.abc import Mapping
from typing import Any

from jmamba.models.mixer_keys import (
    HEADS_KEYS,
    HF_KEY,
    ORIGINAL_KEY,
    describe_sizes,
    explain_adapted,
    explain_headless,
    language_table,
)

MAMBA2_TABLES = {
    "original": language_table(HEADS_KEYS, ORIGINAL_KEY),
    "hf": language_table(HEADS_KEYS, HF_KEY, ORIGINAL_KEY),
}
"""Layout -> table."""


def explain_mamba2_mismatch(found: Mapping[str, tuple[int, ...]], config: Any) -> str:
    """Say what to do if tensors are not those of a model of a configuration."""
    return (
        explain_adapted(found)
        or explain_headless(found, config, "Mamba2Model")
        or describe_sizes(found)
    )
