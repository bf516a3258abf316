"""AdamW with masked decay under a cosine schedule."""

import jax
import optax


def make_schedule(
    peak: float, *, steps: int, warmup: int, final_fraction: float = 0.01
) -> optax.Schedule:
    """Rise linearly to the peak, then fall along a cosine to a fraction of it."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=peak,
        warmup_steps=warmup,
        decay_steps=steps,
        end_value=peak * final_fraction,
    )


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


def make_optimizer(
    schedule: optax.Schedule, *, weight_decay: float = 0.1, clip: float = 1.0
) -> optax.GradientTransformation:
    """Return AdamW (b1 0.9, b2 0.95) with clipped gradients and masked decay.

    References:
      Loshchilov & Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101.
      Gu & Dao, "Mamba", arXiv 2312.00752, appendix E.2.
    """
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.adamw(
            schedule, b1=0.9, b2=0.95, weight_decay=weight_decay, mask=decay_mask
        ),
    )
