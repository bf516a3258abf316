"""The named shapes that kernels are measured and compiled at."""

SHAPES = {
    "mamba-130m": (1536, 16),
    "mamba-370m": (2048, 16),
    "mamba-790m": (3072, 16),
    "mamba-1.4b": (4096, 16),
    "mamba-2.8b": (5120, 16),
    "falcon-7b": (8192, 16),
    "vim-t": (384, 16),
    "vim-s": (768, 16),
}
"""Name -> channels d of the scan, states n."""
