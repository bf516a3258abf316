"""The table of implementations, and which one runs where."""

import importlib
import math
import os
from functools import cache

import jax.numpy as jnp

from jmamba_kernels.selective_scan.contract import Implementation
from jmamba_kernels.selective_scan.tilings import (
    MosaicGpuTiling,
    TpuTiling,
    TritonTiling,
)
from jmamba_kernels.targets import Service, Target, check_serves, is_compiled

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
    made = getattr(
        importlib.import_module(f"jmamba_kernels.selective_scan.{name}"), name
    )
    return made if isinstance(made, Implementation) else made(tiling)


KERNELS = {
    "pallas_tpu": Service("TPUs", "tpu", compiles=(0, 10, 2), interprets=(0, 10, 2)),
    "pallas_triton": Service(
        "Ampere and Ada GPUs",
        "cuda",
        (8, 9),
        compiles=(0, 10, 2),
        interprets=(0, 10, 2),
    ),
    "pallas_mosaic_gpu": Service(
        "Hopper and newer GPUs",
        "cuda",
        (9, math.inf),
        compiles=(0, 10, 2),
        interprets=(0, 12),
    ),
}
"""Kernel -> where it runs."""


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

    1. for float64 operands "xla", since no kernel serves them; likewise where jax is
       older than the device's kernel needs;
    2. on a TPU `pallas_tpu`; but "xla" where XLA spreads the program over several
       TPUs by itself, since it cannot be told there how to split a kernel (on
       `Explicit` axes of a mesh, or in `jax.shard_map`, each has the kernel);
    3. on an NVIDIA GPU of capability 8.0 or more "pallas_gpu";
    4. elsewhere (a CPU, a T4, an AMD GPU, an unknown device) "xla".

    Raises:
      NotImplementedError: a kernel is named for a device it does not run on, or that
        needs a newer jax.
    """
    target = Target(target) if isinstance(target, str) else target
    tiling = None
    if implementation is None:
        implementation = os.environ.get("JMAMBA_SCAN") or _choose_kernel(
            target, jnp.dtype(dtype)
        )
    if isinstance(implementation, TpuTiling | TritonTiling | MosaicGpuTiling):
        tiling = implementation
        implementation = TILINGS[type(tiling)]
    if implementation == "xla":
        implementation = "xla_loop" if target.platform == "cpu" else "xla_chunked"
    if implementation == "pallas_gpu":
        implementation = _choose_gpu_kernel(target)
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"JMAMBA_SCAN={implementation!r} names no implementation. Set it to one of "
            f"{', '.join(sorted([*IMPLEMENTATIONS, *ALIASES]))}, or unset it."
        )
    if implementation in KERNELS:
        check_serves(implementation, KERNELS[implementation], target)
    return implementation, load(implementation, tiling)


def _choose_kernel(target: Target, dtype) -> str:
    if dtype == jnp.float64:
        return "xla"
    name = "xla"
    if target.platform == "tpu" and not target.is_partitioned:
        name = "pallas_tpu"
    if target.platform == "cuda" and (target.capability or 0) >= 8:
        name = _choose_gpu_kernel(target)
    return name if name == "xla" or is_compiled(KERNELS[name]) else "xla"


def _choose_gpu_kernel(target: Target) -> str:
    """Return the kernel of a GPU; of one that has none, a name that is refused."""
    return "pallas_triton" if (target.capability or 0) < 9 else "pallas_mosaic_gpu"
