"""What a program is lowered for, and what a kernel serves: the same for every op."""

import math
from typing import NamedTuple

import jax

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


class Target(NamedTuple):
    """What a program is lowered for.

    Attributes:
      platform: one of `PLATFORMS`.
      capability: of an NVIDIA GPU, such as 8.0 (A100); None where it is not known,
        as when a program is exported without its device.
      parts: devices that XLA spreads the program over by itself (jit with shardings,
        outside `shard_map`).
    """

    platform: str
    capability: float | None = None
    parts: int = 1

    @property
    def is_partitioned(self) -> bool:
        """Whether XLA spreads the program over several devices by itself."""
        return self.parts > 1


class Service(NamedTuple):
    """Where a kernel runs, and from which jax on; on a CPU it is interpreted.

    Attributes:
      device: what it is for, in words.
      platform: one of `PLATFORMS`.
      capability: least and first excluded compute capability of an NVIDIA GPU.
      compiles: first version of jax that compiles it.
      interprets: first version of jax that interprets it.
    """

    device: str
    platform: str
    capability: tuple[float, float] = (0, math.inf)
    compiles: tuple[int, ...] = ()
    interprets: tuple[int, ...] = ()


def check_serves(name: str, service: Service, target: Target) -> None:
    """Raise unless a kernel runs on a target, as far as that is known.

    Args:
      name: what the kernel is called in messages.
      service: where it runs.
      target: what the program is lowered for.

    Raises:
      NotImplementedError: it is for another device, or needs a newer jax.

    Examples:
      >>> check_serves("pallas_tpu", Service("TPUs", "tpu"), Target("rocm"))
      Traceback (most recent call last):
        ...
      NotImplementedError: pallas_tpu is for TPUs, but the program is for rocm. Give \
implementation=None to have one chosen, or 'xla'.
    """
    if target.platform == "cpu":
        _check_jax(f"{name}, interpreted on a CPU,", service.interprets)
        return
    capability, (low, high) = target.capability, service.capability
    if target.platform != service.platform or (
        capability is not None and not low <= capability < high
    ):
        device = target.platform + (f" {capability}" if capability is not None else "")
        raise NotImplementedError(
            f"{name} is for {service.device}, but the program is for {device}. Give "
            f"implementation=None to have one chosen, or 'xla'."
        )
    _check_jax(name, service.compiles)


def is_compiled(service: Service) -> bool:
    """Return whether this jax compiles a kernel."""
    return jax.__version_info__ >= service.compiles


def is_interpreted(service: Service) -> bool:
    """Return whether this jax interprets a kernel on a CPU."""
    return jax.__version_info__ >= service.interprets


def _check_jax(what: str, needed: tuple[int, ...]) -> None:
    if jax.__version_info__ < needed:
        raise NotImplementedError(
            f"{what} needs jax {'.'.join(map(str, needed))} or newer, this is "
            f"{jax.__version__}. Give implementation='xla', or None."
        )
