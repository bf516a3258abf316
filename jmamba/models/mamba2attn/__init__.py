"""The original hybrids of Mamba-2 and attention."""

from jmamba.models.mamba2attn.architecture import MAMBA2ATTN as MAMBA2ATTN
