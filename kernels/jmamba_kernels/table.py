"""The table of implementations, and which one runs where."""

import importlib
import os
from functools import cache
from typing import NamedTuple

import jax.numpy as jnp

from jmamba_kernels.contract import Implementation
from jmamba_kernels.tilings import MosaicGpuTiling, TpuTiling, TritonTiling

IMPLEMENTATIONS = (
    "reference",
    "xla_loop",
    "xla_chunked",
    "pallas_tpu",
    "pallas_triton",
    "pallas_mosaic_gpu",
)
"""Names; each is a module here that holds an implementation of the same name."""

TILINGS = {
    TpuTiling: "pallas_tpu",
    TritonTiling: "pallas_triton",
    MosaicGpuTiling: "pallas_mosaic_gpu",
}
"""Kind of tiling -> the kernel it belongs to."""

ALIASES = ("xla", "pallas_gpu")
"""Names that mean one implementation or another, by the device."""

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

Choice = str | TpuTiling | TritonTiling | MosaicGpuTiling | None
"""What a caller may ask for: a name, a kernel with its tiles, or None."""


@cache
def load(name: str, tiling=None) -> Implementation:
    """Return an implementation by name, importing it when it is first asked for.

    Kernels import their compiler's part of Pallas, which not every platform has.

    Args:
      name: one of `IMPLEMENTATIONS`.
      tiling: how to cut a kernel; None for its heuristic.
    """
    made = getattr(importlib.import_module(f"jmamba_kernels.{name}"), name)
    return made if isinstance(made, Implementation) else made(tiling)


class Target(NamedTuple):
    """What a program is lowered for.

    Attributes:
      platform: one of `PLATFORMS`.
      capability: of an NVIDIA GPU, such as 8.0 (A100); None where it is not known,
        as when a program is exported without its device.
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

    A name, or a tiling, is taken as it is and never falls back. "pallas_gpu" is the
    GPU kernel of the device: `pallas_triton` for Ampere and Ada (capability 8.x),
    `pallas_mosaic_gpu` for Hopper and newer. "xla" is the XLA form that suits the
    platform: the token loop on a CPU, the chunked associative scan elsewhere (a token
    loop would launch a kernel per token).

    None is what the environment variable JMAMBA_SCAN names, if it is set; else, in
    order:

    1. for float64 operands "xla", since no kernel serves them;
    2. on a TPU `pallas_tpu`; but "xla" where XLA spreads the program over several
       TPUs by itself, since it cannot be told there how to split a kernel (wrap the
       computation in `jax.shard_map` to have the kernel on each);
    3. on an NVIDIA GPU of capability 8.0 or more "pallas_gpu";
    4. elsewhere (a CPU, a T4, an AMD GPU, an unknown device) "xla".

    Raises:
      NotImplementedError: "pallas_gpu" is named for a device without such a kernel.
    """
    target = Target(target) if isinstance(target, str) else target
    if implementation is None:
        implementation = os.environ.get("JMAMBA_SCAN") or _choose_kernel(
            target, jnp.dtype(dtype)
        )
    if isinstance(implementation, TpuTiling | TritonTiling | MosaicGpuTiling):
        name = TILINGS[type(implementation)]
        return name, load(name, implementation)
    if implementation == "xla":
        implementation = "xla_loop" if target.platform == "cpu" else "xla_chunked"
    if implementation == "pallas_gpu":
        implementation = _choose_gpu_kernel(target)
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"JMAMBA_SCAN={implementation!r} names no implementation. Set it to one of "
            f"{', '.join(sorted([*IMPLEMENTATIONS, *ALIASES]))}, or unset it."
        )
    return implementation, load(implementation)


def _choose_kernel(target: Target, dtype) -> str:
    if dtype == jnp.float64:
        return "xla"
    if target.platform == "tpu" and not target.is_partitioned:
        return "pallas_tpu"
    if target.platform == "cuda" and (target.capability or 0) >= 8:
        return "pallas_gpu"
    return "xla"


def _choose_gpu_kernel(target: Target) -> str:
    capability = target.capability or 0
    if target.platform != "cuda" or capability < 8:
        raise NotImplementedError(
            f"pallas_gpu needs an NVIDIA GPU of compute capability 8.0 or more, but "
            f"the program is for {target.platform}, capability {target.capability}. "
            "Give implementation='xla', or name the kernel: 'pallas_triton' (Ampere, "
            "Ada) or 'pallas_mosaic_gpu' (Hopper and newer)."
        )
    return "pallas_triton" if capability < 9 else "pallas_mosaic_gpu"
