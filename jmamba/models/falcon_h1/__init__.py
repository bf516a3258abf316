"""Falcon-H1, language models of Mamba-2 and attention side by side."""

from jmamba.models.falcon_h1.architecture import FALCON_H1 as FALCON_H1
