"""The table of implementations, and which one runs where."""

from typing import NamedTuple

import jax.numpy as jnp

from jmamba_kernels.contract import Implementation
from jmamba_kernels.pallas_mosaic_gpu import MosaicGpuTiling, pallas_mosaic_gpu
from jmamba_kernels.pallas_tpu import pallas_tpu
from jmamba_kernels.pallas_triton import TritonTiling, pallas_triton
from jmamba_kernels.reference import reference
from jmamba_kernels.tpu.layout import TpuTiling
from jmamba_kernels.xla_chunked import xla_chunked
from jmamba_kernels.xla_loop import xla_loop

IMPLEMENTATIONS: dict[str, Implementation] = {
    "reference": reference,
    "xla_loop": xla_loop,
    "xla_chunked": xla_chunked,
    "pallas_triton": pallas_triton(),
    "pallas_mosaic_gpu": pallas_mosaic_gpu(),
    "pallas_tpu": pallas_tpu(),
}

TILINGS = {
    TpuTiling: ("pallas_tpu", pallas_tpu),
    TritonTiling: ("pallas_triton", pallas_triton),
    MosaicGpuTiling: ("pallas_mosaic_gpu", pallas_mosaic_gpu),
}
"""Kind of tiling -> the kernel it belongs to, and how to make that with it."""

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

Choice = str | TpuTiling | TritonTiling | MosaicGpuTiling | None
"""What a caller may ask for: a name, a kernel with its tiles, or None."""


class Target(NamedTuple):
    """What a program is lowered for.

    Attributes:
      platform: one of `PLATFORMS`.
      capability: of an NVIDIA GPU, such as 8.0 (A100); None where it is not known.
      is_partitioned: whether XLA spreads the program over several devices by itself
        (jit with shardings, outside `shard_map`).
    """

    platform: str
    capability: float | None = None
    is_partitioned: bool = False


def choose(
    implementation: Choice, target: Target | str, *, dtype="float32"
) -> tuple[str, Implementation]:
    """Return the implementation to run on a target, and its name.

    A name, or a tiling, is taken as it is and never falls back. None is, in order:

    1. for float64 operands the XLA form, since no kernel serves them;
    2. on a TPU its kernel, or the XLA form where XLA spreads the program over several
       TPUs by itself: it has no way there to be told how to split a kernel, so wrap
       the computation in `jax.shard_map` to have the kernel on each;
    3. elsewhere the XLA form.

    "xla" means the XLA form that suits the platform: the token loop on a CPU, the
    chunked associative scan elsewhere (a token loop would launch a kernel per token).
    """
    if isinstance(implementation, TpuTiling | TritonTiling | MosaicGpuTiling):
        name, make = TILINGS[type(implementation)]
        return name, make(implementation)
    target = Target(target) if isinstance(target, str) else target
    if implementation is None:
        implementation = _choose_kernel(target, jnp.dtype(dtype))
    if implementation == "xla":
        implementation = "xla_loop" if target.platform == "cpu" else "xla_chunked"
    return implementation, IMPLEMENTATIONS[implementation]


def _choose_kernel(target: Target, dtype) -> str:
    if dtype == jnp.float64:
        return "xla"
    if target.platform == "tpu" and not target.is_partitioned:
        return "pallas_tpu"
    return "xla"
