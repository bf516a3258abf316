"""Mamba in JAX, for people who want to see inside it."""

from jmamba import attention as attention
from jmamba import dynamics as dynamics
from jmamba import ops as ops
from jmamba.models.config import MambaConfig as MambaConfig
from jmamba.models.generation import Generated as Generated
from jmamba.models.generation import generate as generate
from jmamba.models.language_model import MambaLM as MambaLM
from jmamba.models.sampling import Sampling as Sampling
from jmamba.models.trace import Trace as Trace
from jmamba.models.trace import trace as trace
from jmamba.models.vision import Vim as Vim
from jmamba.models.vision_config import VimConfig as VimConfig
