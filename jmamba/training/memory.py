"""Whether a model can be trained in the memory there is, by what it needs at least."""

import os
from pathlib import Path

import jax

from jmamba.models.mamba.config import MambaConfig
from jmamba.training.loop import TrainConfig

_CGROUP = Path("/sys/fs/cgroup/memory.max")


def training_bytes(config: MambaConfig, settings: TrainConfig) -> int:
    """Return how many bytes training takes at least.

    Weights, gradients and both moments of Adam; logits, and what goes from layer to
    layer. Everything else that backpropagation keeps comes on top.

    Examples:
      >>> config = MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> training_bytes(config, TrainConfig(steps=300, batch=4, length=64))
      460800
    """
    m, d, n, r = config.d_model, config.d_inner, config.d_state, config.dt_rank
    layer = 3 * m * d + d * (r + 2 * n) + r * d + d * n
    weights = config.vocab_size * m + config.num_layers * layer
    tokens = settings.batch * settings.length
    values = tokens * (config.vocab_size + config.num_layers * m)
    return 4 * (4 * weights + values)


def check_training_memory(config: MambaConfig, settings: TrainConfig) -> None:
    """Raise if a model cannot be trained in the memory there is.

    Raises:
      ValueError: it cannot.
    """
    needed, there = training_bytes(config, settings), _memory()
    if there is not None and needed > there:
        raise ValueError(
            f"Training needs at least {needed / 2**30:,.1f} GiB of memory, and "
            f"{jax.devices()[0].device_kind} has {there / 2**30:,.1f} GiB. Make batch "
            f"({settings.batch}), length ({settings.length}), d_model "
            f"({config.d_model}), d_state ({config.d_state}) or num_layers "
            f"({config.num_layers}) smaller."
        )


def _memory() -> int | None:
    """Return the bytes of memory there are, None if that cannot be said."""
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    try:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        limit = _CGROUP.read_text().strip() if _CGROUP.is_file() else ""
    except (AttributeError, ValueError, OSError):
        return None
    return min(pages, int(limit)) if limit.isdigit() else pages
