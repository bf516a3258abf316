"""Names of a language model's tensors: mamba-ssm's, transformers', Falcon-Mamba's."""

from collections.abc import Mapping
from typing import Any

from jmamba.models.mixer_keys import (
    HF_KEY,
    MIXER_KEYS,
    ORIGINAL_KEY,
    describe_sizes,
    explain_adapted,
    explain_gates,
    explain_headless,
    language_table,
)

TABLES = {
    "original": language_table(MIXER_KEYS, ORIGINAL_KEY),
    "hf": language_table(MIXER_KEYS, HF_KEY, ORIGINAL_KEY),
    "falcon": language_table(MIXER_KEYS, HF_KEY, ORIGINAL_KEY),  # norms: no weights
}
"""Layout -> table."""


def explain_text_mismatch(found: Mapping[str, tuple[int, ...]], config: Any) -> str:
    """Say what to do if tensors are not those of a model of a configuration."""
    return (
        explain_adapted(found)
        or explain_gates(found, config.definite)
        or explain_headless(found, config, "MambaModel or FalconMambaModel")
        or describe_sizes(found)
    )
