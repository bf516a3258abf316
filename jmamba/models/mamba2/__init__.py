"""Mamba-2, language models."""

from jmamba.models.mamba2.architecture import MAMBA2 as MAMBA2
