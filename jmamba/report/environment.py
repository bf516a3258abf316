"""What a result was made with: versions, devices, the implementation of the scan."""

import importlib.metadata
import platform
from typing import Any

from jmamba_kernels import choose
from jmamba_kernels.targets import Target

PACKAGES = ("jmamba", "jax", "jaxlib", "flax", "numpy", "matplotlib")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter.

    Examples:
      >>> sorted(versions())[:3]
      ['flax', 'jax', 'jaxlib']
    """
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a source tree
            found[name] = "not installed"
    return found


def lowering_platform() -> str:
    """Return the default platform by the name programs are compiled for.

    JAX calls both makes of GPU "gpu", the table of implementations does not.

    Examples:
      >>> lowering_platform() in ("cpu", "cuda", "rocm", "tpu")
      True
    """
    import jax

    device = jax.devices()[0]
    if device.platform != "gpu":
        return device.platform
    return "rocm" if "rocm" in device.client.platform_version.lower() else "cuda"


def lowering_target() -> Target:
    """Return what programs for the default device are lowered for."""
    import jax

    capability = getattr(jax.devices()[0], "compute_capability", None)
    return Target(
        lowering_platform(), None if capability is None else float(capability)
    )


def environment() -> dict[str, Any]:
    """Return versions, device and the implementation of the scan that runs on it."""
    import jax

    device = jax.devices()[0]
    return {
        "versions": versions(),
        "platform": lowering_platform(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "implementation": choose(None, lowering_target())[0],
    }
