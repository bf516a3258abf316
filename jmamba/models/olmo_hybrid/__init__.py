"""OLMo-hybrid, language models of gated delta nets and attention."""

from jmamba.models.olmo_hybrid.architecture import OLMO_HYBRID as OLMO_HYBRID
