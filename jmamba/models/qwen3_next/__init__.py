"""Qwen3-Next, language models of gated delta nets, gated attention and experts."""

from jmamba.models.qwen3_next.architecture import QWEN3_NEXT as QWEN3_NEXT
