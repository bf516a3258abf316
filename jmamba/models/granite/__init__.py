"""Granite 4 H, language models of Mamba-2 and attention."""

from jmamba.models.granite.architecture import GRANITE as GRANITE
