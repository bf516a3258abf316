"""Mamba-1 and Falcon-Mamba, language models."""
