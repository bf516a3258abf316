"""One call for every explanation of a prediction."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxtyping import Array, Float

from jmamba.attention.question import (
    Continuation,
    Contrast,
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
    instead_of: TargetChoice = None,
    query: PerSample = None,
    **options: Any,
) -> Float[Array, "b tokens"]:
    """Return how much each token matters to a logit, by a method's name.

    Why one and not the other is asked by two targets, of which any may be the `MeanOf`
    several; a `Continuation` is a target of several tokens. Methods by attention alone
    (raw attention, rollout, token norms, ALTI) say the same of all targets.

    Args:
      model: a model of texts or images.
      inputs: token ids (b, l) or images (b, height, width, colours).
      method: a name in `METHODS`.
      target: class or token whose logit is explained, one or one per sample; None for
        the predicted one; or a `MeanOf`, a `Continuation` or a `Contrast`.
      instead_of: another, whose logit is taken off.
      query: the token that it is read off, one or one per sample; None for the class
        token of an image and the last token of a text.
      **options: of the method, such as `settings="official_2024"`.

    Returns:
      The relevance of every token of the residual stream, the class token included;
      of a continuation also of all its tokens but the last. For one continuation
      instead of another it is the difference of both, of the tokens that they share:
      those of the inputs.

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
      >>> from jmamba.attention import MeanOf
      >>> explain(model, image, "mamba_lrp", target=0, instead_of=MeanOf([2, 3])).shape
      (1, 17)
    """
    if method not in METHODS:
        raise ValueError(
            f"Unknown method {method!r}: give one of {', '.join(METHODS)}."
        )
    if instead_of is not None:
        if isinstance(target, Contrast):
            raise ValueError(
                f"target={target} has something to be compared with, and so has "
                "instead_of; leave one of them out."
            )
        target = Contrast(target, instead_of)  # pyright: ignore[reportArgumentType] (`ask` checks it)
    ask = partial(METHODS[method], model, inputs, query=query, **options)
    if not isinstance(target, Contrast) or not any(
        isinstance(one, Continuation) for one in target
    ):
        return ask(target=target)
    shared = model.count_tokens(model.check_inputs(inputs).shape)
    one, other = (ask(target=own)[:, :shared] for own in target)
    return one - other
