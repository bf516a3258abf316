"""Mamba in JAX, for people who want to see inside it."""

from jmamba import ops as ops
from jmamba.models.config import MambaConfig as MambaConfig
from jmamba.models.language_model import MambaLM as MambaLM
