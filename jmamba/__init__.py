"""Mamba in JAX, for people who want to see inside it."""

from jmamba import attention as attention
from jmamba import dynamics as dynamics
from jmamba import ops as ops
from jmamba import recurrences as recurrences
from jmamba.generation.decoding import Generated as Generated
from jmamba.generation.decoding import generate as generate
from jmamba.generation.sampling import Sampling as Sampling
from jmamba.models.bamba.config import BambaConfig as BambaConfig
from jmamba.models.bamba.model import BambaLM as BambaLM
from jmamba.models.falcon_h1.config import FalconH1Config as FalconH1Config
from jmamba.models.falcon_h1.model import FalconH1LM as FalconH1LM
from jmamba.models.granite.config import GraniteConfig as GraniteConfig
from jmamba.models.granite.model import GraniteLM as GraniteLM
from jmamba.models.jamba.config import JambaConfig as JambaConfig
from jmamba.models.jamba.model import JambaLM as JambaLM
from jmamba.models.language_model import LanguageModel as LanguageModel
from jmamba.models.mamba.classifier import MambaClassifier as MambaClassifier
from jmamba.models.mamba.classifier import (
    MambaClassifierConfig as MambaClassifierConfig,
)
from jmamba.models.mamba.config import MambaConfig as MambaConfig
from jmamba.models.mamba.model import MambaLM as MambaLM
from jmamba.models.mamba2.classifier import Mamba2Classifier as Mamba2Classifier
from jmamba.models.mamba2.classifier import (
    Mamba2ClassifierConfig as Mamba2ClassifierConfig,
)
from jmamba.models.mamba2.config import Mamba2Config as Mamba2Config
from jmamba.models.mamba2.model import Mamba2LM as Mamba2LM
from jmamba.models.mamba2attn.config import Mamba2AttnConfig as Mamba2AttnConfig
from jmamba.models.mamba2attn.model import Mamba2AttnLM as Mamba2AttnLM
from jmamba.models.olmo_hybrid.config import OlmoHybridConfig as OlmoHybridConfig
from jmamba.models.olmo_hybrid.model import OlmoHybridLM as OlmoHybridLM
from jmamba.models.qwen3_next.config import Qwen3NextConfig as Qwen3NextConfig
from jmamba.models.qwen3_next.model import Qwen3NextLM as Qwen3NextLM
from jmamba.models.sharding import Sharding as Sharding
from jmamba.models.vim.config import VimConfig as VimConfig
from jmamba.models.vim.model import Vim as Vim
from jmamba.tracing.trace import Trace as Trace
from jmamba.tracing.trace import trace as trace
from jmamba.version import __version__ as __version__
