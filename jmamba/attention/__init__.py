"""The Hidden Attention of Mamba Models."""

from jmamba.attention.hidden_attention import REDUCTIONS as REDUCTIONS
from jmamba.attention.hidden_attention import channel_attention as channel_attention
from jmamba.attention.hidden_attention import hidden_attention as hidden_attention
from jmamba.attention.hidden_attention import reduced_attention as reduced_attention
