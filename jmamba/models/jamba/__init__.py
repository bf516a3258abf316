"""Jamba, language models of Mamba-1 and attention."""

from jmamba.models.jamba.architecture import JAMBA as JAMBA
