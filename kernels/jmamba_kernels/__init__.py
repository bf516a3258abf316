"""Implementations of the selective scan, one file each, under one contract."""

from jmamba_kernels.selective_scan.contract import CHUNK as CHUNK
from jmamba_kernels.selective_scan.contract import Implementation as Implementation
from jmamba_kernels.selective_scan.contract import ScanInputs as ScanInputs
from jmamba_kernels.selective_scan.contract import ScanResult as ScanResult
from jmamba_kernels.selective_scan.contract import (
    accumulation_dtype as accumulation_dtype,
)
from jmamba_kernels.selective_scan.contract import num_chunks as num_chunks
from jmamba_kernels.selective_scan.table import IMPLEMENTATIONS as IMPLEMENTATIONS
from jmamba_kernels.selective_scan.table import choose as choose
from jmamba_kernels.selective_scan.table import load as load
from jmamba_kernels.selective_scan.tilings import MosaicGpuTiling as MosaicGpuTiling
from jmamba_kernels.selective_scan.tilings import TpuTiling as TpuTiling
from jmamba_kernels.selective_scan.tilings import TritonTiling as TritonTiling
