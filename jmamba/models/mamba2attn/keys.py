"""Names of an original hybrid's tensors: those of Mamba-2, whatever the layer."""

from jmamba.models.mixer_keys import HEADS_KEYS, ORIGINAL_KEY, language_table

MAMBA2ATTN_TABLES = {"original": language_table(HEADS_KEYS, ORIGINAL_KEY)}
"""Layout -> table."""
