"""Differentiable operations."""

from jmamba.ops.causal_conv1d import ConvOutput as ConvOutput
from jmamba.ops.causal_conv1d import causal_conv1d as causal_conv1d
from jmamba.ops.selective_scan import ScanOutput as ScanOutput
from jmamba.ops.selective_scan import selective_scan as selective_scan
from jmamba.ops.selective_scan import selective_state_update as selective_state_update
from jmamba.ops.ssd import SsdOutput as SsdOutput
from jmamba.ops.ssd import ssd as ssd
from jmamba.ops.ssd import ssd_state_update as ssd_state_update
from jmamba_kernels import IMPLEMENTATIONS as IMPLEMENTATIONS
from jmamba_kernels import MosaicGpuTiling as MosaicGpuTiling
from jmamba_kernels import TpuTiling as TpuTiling
from jmamba_kernels import TritonTiling as TritonTiling
