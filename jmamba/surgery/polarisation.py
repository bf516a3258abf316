"""States that remember for ever, and states that remember nothing."""

import jax
import jax.numpy as jnp
from flax import nnx

from jmamba.models.mamba.model import MambaLM

FORGETS = 69.0
"""A_log of a state whose decay exp(-e^69 delta) is 0 for any delta above 1e-28."""


def polarise_states(
    model: MambaLM, *, remember: bool = True, forget: bool = True
) -> MambaLM:
    """Return a model whose first states never decay and whose last ones always do.

        A[:, 0] = 0,  A_bar = 1     A[:, -1] = -1e30,  A_bar = 0     for any delta

    Exactly, where A = -100 would leave exp(-100 delta) = 0.9 for delta = 0.001. Both
    follow from A_log = -inf and 69, so that nothing but A_log changes, and gradients of
    these entries are zero: they stay as they are in training (give A_log no weight
    decay, as always). A first state sums up all it has seen, and grows with the text.

    Args:
      model: the model; it is not changed.
      remember: whether to set the first state of each channel.
      forget: whether to set the last.

    Raises:
      ValueError: there are fewer states than are to be set.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = polarise_states(jmamba.MambaLM(config, rngs=nnx.Rngs(0)))
      >>> A = jmamba.trace(model, jnp.array([[3, 1]])).recurrence.A
      >>> A[0, 0, 0].item() == 0, A[0, 0, -1].item() < -1e29
      (True, True)

    References:
      Wang et al., arXiv 2501.00658, section 5, there with A = 0 and -100.
    """
    count = int(remember) + int(forget)
    if model.config.d_state < count:
        raise ValueError(
            f"The model has {model.config.d_state} state per channel, but {count} are "
            "to be set; give a larger d_state, or remember=False or forget=False."
        )
    graphdef, state = nnx.split(model)
    # new variables around the same arrays: the given model stays as it is
    polarised = nnx.merge(graphdef, jax.tree.map(lambda x: x, state))
    A_log = polarised.layers.mixer.A_log[...]
    if remember:
        A_log = A_log.at[..., 0].set(-jnp.inf)
    if forget:
        A_log = A_log.at[..., -1].set(FORGETS)
    polarised.layers.mixer.A_log[...] = A_log
    return polarised
