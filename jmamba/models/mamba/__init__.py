"""Mamba-1 and Falcon-Mamba, language models."""

from jmamba.models.mamba.architecture import MAMBA as MAMBA
