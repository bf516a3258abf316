"""Bamba, language models of Mamba-2 and attention."""

from jmamba.models.bamba.architecture import BAMBA as BAMBA
