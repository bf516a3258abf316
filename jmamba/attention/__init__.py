"""The Hidden Attention of Mamba Models."""

from jmamba.attention.channels import channel_attention as channel_attention
from jmamba.attention.factors import PARTS as PARTS
from jmamba.attention.factors import BidirectionalFactors as BidirectionalFactors
from jmamba.attention.factors import Factors as Factors
from jmamba.attention.factors import bias_output as bias_output
from jmamba.attention.factors import factorise as factorise
from jmamba.attention.hidden_attention import hidden_attention as hidden_attention
from jmamba.attention.hidden_attention import inner_attention as inner_attention
from jmamba.attention.reduction import REDUCTIONS as REDUCTIONS
from jmamba.attention.reduction import reduced_attention as reduced_attention
from jmamba.attention.reduction import top_channels as top_channels
