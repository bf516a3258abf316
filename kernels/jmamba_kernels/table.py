"""The table of implementations, and which one runs where."""

from jmamba_kernels.contract import Implementation
from jmamba_kernels.pallas_mosaic_gpu import pallas_mosaic_gpu
from jmamba_kernels.pallas_triton import pallas_triton
from jmamba_kernels.reference import reference
from jmamba_kernels.xla_chunked import xla_chunked
from jmamba_kernels.xla_loop import xla_loop

IMPLEMENTATIONS: dict[str, Implementation] = {
    "reference": reference,
    "xla_loop": xla_loop,
    "xla_chunked": xla_chunked,
    "pallas_triton": pallas_triton(),
    "pallas_mosaic_gpu": pallas_mosaic_gpu(),
}

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def choose(implementation: str | None, platform: str) -> str:
    """Return the name of the implementation to run on a platform.

    None and "xla" mean the XLA form that suits the platform: the token loop on a CPU,
    the chunked associative scan elsewhere (a token loop would launch a kernel per
    token). Any other name is taken as it is and never falls back.
    """
    if implementation in (None, "xla"):
        return "xla_loop" if platform == "cpu" else "xla_chunked"
    return implementation
