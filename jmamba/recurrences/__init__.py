"""Recurrences of the other gated linear layers, from their parameters."""

from jmamba.recurrences.chunks import run_in_chunks as run_in_chunks
from jmamba.recurrences.decaying import gated_linear_attention as gated_linear_attention
from jmamba.recurrences.decaying import hgrn2 as hgrn2
from jmamba.recurrences.decaying import lightning_attention as lightning_attention
from jmamba.recurrences.decaying import retention as retention
from jmamba.recurrences.decaying import rg_lru as rg_lru
from jmamba.recurrences.decaying import rwkv6 as rwkv6
from jmamba.recurrences.erasing import delta_net as delta_net
from jmamba.recurrences.erasing import gated_delta_net as gated_delta_net
from jmamba.recurrences.erasing import kimi_delta_attention as kimi_delta_attention
from jmamba.recurrences.erasing import rwkv7 as rwkv7
from jmamba.recurrences.running import GatedOutput as GatedOutput
from jmamba.recurrences.running import run_gated as run_gated
from jmamba.recurrences.running import step_gated as step_gated
from jmamba.recurrences.weighted import mlstm as mlstm
from jmamba.recurrences.weighted import rwkv4 as rwkv4
from jmamba.types import GatedRecurrence as GatedRecurrence
