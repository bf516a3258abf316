"""Whether a run fits into the memory there is, by what it needs at least."""

import os
from pathlib import Path

import jax

from jmamba.models.mamba.config import MambaConfig
from jmamba.training.config import TrainConfig

_CGROUP = Path("/sys/fs/cgroup/memory.max")


def training_bytes(weights: int, values: int) -> int:
    """Return how many bytes training takes at least, all of it in float32.

    Weights, gradients and both moments of Adam, and the values that are kept of the
    way forward. Everything else that backpropagation keeps comes on top.

    Args:
      weights: numbers in the model.
      values: numbers that are kept.

    Examples:
      >>> training_bytes(weights=100, values=50)
      1800
    """
    return 4 * (4 * weights + values)


def mamba_training_bytes(config: MambaConfig, batch: int, length: int) -> int:
    """Return how many bytes training a Mamba takes at least.

    Kept are logits, and what goes from layer to layer.

    Args:
      config: of the model.
      batch: sequences per step.
      length: tokens per sequence.

    Examples:
      >>> config = MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> mamba_training_bytes(config, batch=4, length=64)
      460800
    """
    m, d, n, r = config.d_model, config.d_inner, config.d_state, config.dt_rank
    layer = 3 * m * d + d * (r + 2 * n) + r * d + d * n
    weights = config.vocab_size * m + config.num_layers * layer
    values = batch * length * (config.vocab_size + config.num_layers * m)
    return training_bytes(weights, values)


def check_training_memory(
    config: MambaConfig, settings: TrainConfig, *, devices: int = 1
) -> None:
    """Raise if a model cannot be trained in the memory there is.

    Args:
      config: of the model.
      settings: of the training; of a batch in parts one is held at a time.
      devices: over which it is spread.

    Raises:
      ValueError: it cannot.
    """
    rows = settings.batch // settings.accumulate
    check_run_memory(
        mamba_training_bytes(config, rows, settings.length),
        "Training",
        f"Make batch ({settings.batch}), length ({settings.length}), d_model "
        f"({config.d_model}), d_state ({config.d_state}) or num_layers "
        f"({config.num_layers}) smaller; what several devices would hold, jmamba plan "
        "says.",
        devices=devices,
    )


def check_run_memory(needed: int, what: str, advice: str, *, devices: int = 1) -> None:
    """Raise if a run needs more memory than there is.

    Args:
      needed: bytes that it takes at least.
      what: needs them, as a sentence begins.
      advice: what to do, a sentence.
      devices: that it may use, each with as much memory; those of a CPU share it.

    Raises:
      ValueError: it needs more.
    """
    there = _memory(devices)
    if there is not None and needed > there:
        raise ValueError(
            f"{what} needs at least {needed / 2**30:,.1f} GiB of memory, and there are "
            f"{there / 2**30:,.1f} GiB ({devices} x {jax.devices()[0].device_kind}). "
            f"{advice}"
        )


def _memory(devices: int) -> int | None:
    """Return the bytes of memory there are, None if that cannot be said."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return devices * stats["bytes_limit"]
    try:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        limit = _CGROUP.read_text().strip() if _CGROUP.is_file() else ""
    except (AttributeError, ValueError, OSError):
        return None
    return min(pages, int(limit)) if limit.isdigit() else pages
