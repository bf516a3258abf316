"""One call for every explanation of a prediction."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from jmamba.attention.question import (
    Inputs,
    PerSample,
    TargetChoice,
)
from jmamba.attention.relevance.contributions import alti, alti_logit, token_norms
from jmamba.attention.relevance.gradients import gradient_x_input, smooth_grad
from jmamba.attention.relevance.integrated_gradients import integrated_gradients
from jmamba.attention.relevance.lrp import mamba_lrp
from jmamba.attention.relevance.rollout import (
    attention_rollout,
    mamba_attribution,
    raw_attention,
    unified_attribution,
)
from jmamba.layers.model import LayeredModel
from jmamba.ops.meshes import on_any_mesh

METHODS: dict[str, Callable] = {
    "raw_attention": raw_attention,
    "attention_rollout": attention_rollout,
    "mamba_attribution": mamba_attribution,
    "unified_attribution": unified_attribution,
    "token_norms": token_norms,
    "alti": alti,
    "alti_logit": alti_logit,
    "mamba_lrp": mamba_lrp,
    "gradient_x_input": gradient_x_input,
    "smooth_grad": smooth_grad,
    "integrated_gradients": integrated_gradients,
}
"""Name -> explanation; each takes (model, inputs, *, target, query, **its own)."""


@on_any_mesh
def explain(
    model: LayeredModel,
    inputs: Inputs,
    method: str = "mamba_attribution",
    *,
    target: TargetChoice = None,
    query: PerSample = None,
    **options: Any,
) -> Float[Array, "b l"]:
    """Return how much each token matters to a logit, by a method's name.

    Args:
      model: a `MambaLM` or a `Vim`.
      inputs: token ids (b, l) or images (b, height, width, colours).
      method: a name in `METHODS`.
      target: class or token whose logit is explained, one or one per sample; None for
        the predicted one.
      query: the token that it is read off, one or one per sample; None for the class
        token of an image and the last token of a text.
      **options: of the method, such as `settings="official_2024"`.

    Returns:
      The relevance of every token of the residual stream, the class token included.

    Raises:
      ValueError: the method is unknown, or as the method says.

    Examples:
      >>> import jmamba, jax.numpy as jnp
      >>> from flax import nnx
      >>> config = jmamba.VimConfig(
      ...     d_model=16, num_layers=2, num_classes=5, image_size=32, patch_size=8
      ... )
      >>> model, image = jmamba.Vim(config, rngs=nnx.Rngs(0)), jnp.ones((1, 32, 32, 3))
      >>> explain(model, image, "gradient_x_input").shape
      (1, 17)
    """
    if method not in METHODS:
        raise ValueError(
            f"Unknown method {method!r}: give one of {', '.join(METHODS)}."
        )
    return METHODS[method](model, inputs, target=target, query=query, **options)
