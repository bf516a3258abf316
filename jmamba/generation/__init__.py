"""New tokens from a language model."""

from jmamba.generation.decimation import DecimatedOutput as DecimatedOutput
from jmamba.generation.decimation import Decimation as Decimation
from jmamba.generation.decimation import decimated_lengths as decimated_lengths
from jmamba.generation.decimation import prefill_decimated as prefill_decimated
from jmamba.generation.decimation import (
    score_decimating_layers as score_decimating_layers,
)
from jmamba.generation.decoding import Generated as Generated
from jmamba.generation.decoding import generate as generate
from jmamba.generation.lookup import Lookup as Lookup
from jmamba.generation.sampling import Sampling as Sampling
from jmamba.models.cache import GenerationCache as GenerationCache
