"""Optimizers by name, with masked decay and clipping, and the learning rate."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import optax

Schedule = Callable[[int], float]
"""Function of a step to its learning rate."""


def make_schedule(
    peak: float, *, steps: int, warmup: int, final_fraction: float = 0.01
) -> Schedule:
    """Rise linearly to the peak, then fall along a cosine to a fraction of it.

    Args:
      peak: rate after the warm-up.
      steps: in all.
      warmup: steps of the rise.
      final_fraction: of the peak, at the end.

    Examples:
      >>> schedule = make_schedule(1.0, steps=100, warmup=10)
      >>> [round(schedule(step), 3) for step in (0, 5, 10, 55, 100)]
      [0.0, 0.5, 1.0, 0.505, 0.01]

    References:
      Loshchilov & Hutter, "SGDR", arXiv 1608.03983, equation 5.
    """

    def rate(step: int) -> float:
        if step < warmup:
            return peak * step / warmup
        done = min(1.0, (step - warmup) / (steps - warmup))
        fall = (1 + math.cos(math.pi * done)) / 2
        return peak * (final_fraction + (1 - final_fraction) * fall)

    return rate


def decay_mask(parameters):
    """Return True for projection matrices, which alone are decayed.

    A_log, D, step-size biases, norms, convolutions and the embedding are not: decay
    would pull the recurrence's time scales towards those of A = -1. Of definite gates
    the matrices P and S_B are, v and K are not, which set scales; nor are the weights
    of importance, for small scores make all tokens their mean.
    """

    def is_projection(path, _):
        names = [getattr(key, "key", None) for key in path]
        is_gate = "gates" in names and ("P" in names or "S_B" in names)
        return "kernel" in names or is_gate

    return jax.tree_util.tree_map_with_path(is_projection, parameters)


def _matrices(parameters):
    """Return which axes of each parameter are a matrix's, of those that are decayed.

    Layers are stacked, so that a projection is many matrices.
    """
    axes = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
    return jax.tree.map(lambda is_one: axes if is_one else None, decay_mask(parameters))


def _muon(decay: float) -> optax.GradientTransformation:
    """Return Muon for projections and AdamW for the rest, at rates of one size."""
    return optax.contrib.muon(
        1.0,
        weight_decay=decay,
        weight_decay_mask=decay_mask,
        adam_b2=0.95,
        muon_weight_dimension_numbers=_matrices,
        consistent_rms=0.2,
    )


def _momentum(decay: float) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(decay, decay_mask),
        optax.sgd(1.0, momentum=0.9, nesterov=True),
    )


def _decaying(make: Any, **options: Any) -> Callable[[float], Any]:
    return lambda decay: make(1.0, weight_decay=decay, mask=decay_mask, **options)


OPTIMIZERS: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "adamw": _decaying(optax.adamw, b1=0.9, b2=0.95),
    "nadamw": _decaying(optax.nadamw, b1=0.9, b2=0.95),
    "ademamix": _decaying(optax.contrib.ademamix),
    "lion": _decaying(optax.lion),
    "lamb": _decaying(optax.lamb),
    "muon": _muon,
    "sgd": _momentum,
}
"""Name -> optimizer of a weight decay, at a learning rate of 1."""


@lru_cache  # equal ones are one, and a step that was compiled for it serves all runs
def make_optimizer(
    name: str = "adamw", *, weight_decay: float = 0.1, clip: float = 1.0
) -> optax.GradientTransformation:
    """Return an optimizer of optax at a learning rate of 1.

    Its updates are to be multiplied by the rate, so that one compiled step serves all
    schedules. Gradients are clipped by their common norm; projections decay.

    Args:
      name: one of `OPTIMIZERS`: adamw (b1 0.9, b2 0.95), nadamw, ademamix, lion, lamb,
        sgd (Nesterov momentum 0.9), or muon, which is AdamW for what is no projection.
      weight_decay: of projections.
      clip: largest norm of the gradients.

    Raises:
      ValueError: the name is unknown.

    Examples:
      >>> make_optimizer("adamw") is make_optimizer("adamw")
      True

    References:
      Loshchilov & Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101.
      Gu & Dao, "Mamba", arXiv 2312.00752, appendix E.2.
      Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982, section 2.2.
    """
    check_optimizer(name)
    return optax.chain(optax.clip_by_global_norm(clip), OPTIMIZERS[name](weight_decay))


def check_optimizer(name: str) -> None:
    """Raise unless there is an optimizer of a name.

    Raises:
      ValueError: there is none.
    """
    if name not in OPTIMIZERS:
        raise ValueError(
            f"There is no optimizer {name!r}; give one of {', '.join(OPTIMIZERS)}."
        )
