"""MambaLRP: input x gradient through rules that conserve relevance."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.attention.question import (
    Inputs,
    PerSample,
    TargetChoice,
    ask,
    pick,
    read_logits,
)
from jmamba.attention.relevance.gamma_rule import Gammas
from jmamba.attention.relevance.gradients import token_relevance
from jmamba.layers.freezing import MAMBA_LRP, Frozen
from jmamba.layers.model import LayeredModel
from jmamba.ops.meshes import on_any_mesh
from jmamba.types import ArrayLike, Images

COMPOSITES = {
    "lrp_0": Gammas(),
    "gamma_conv": Gammas(conv=0.25, patch=0.25),
    "gamma_all": Gammas(conv=0.25, patch=0.25, in_proj=0.25, out_proj=0.25),
}
"""Name -> rules of linear maps: the plain one for texts, that of the convolutions for
images, and the same in projections."""


@on_any_mesh
def mamba_lrp(
    model: LayeredModel,
    inputs: Inputs,
    *,
    target: TargetChoice = None,
    query: PerSample = None,
    composite: str | Gammas = "lrp_0",
) -> Float[Array, "b tokens"]:
    """Return the relevances of MambaLRP: input x gradient through conserving rules.

    In a forward pass of the same values, derivatives take for constants: delta, B and
    C; sigma in both silu; 1/rms of the norms; and half of each product with the gate.
    All the rest is linear, so that relevances and the share of the biases add up to the
    logit. With a gamma, contributions that agree with a linear map's output count 1 +
    gamma times, and sums stay what they are.

    Args:
      model, inputs, target, query: as in `gradient_x_input`.
      composite: a name in `COMPOSITES` or the `Gammas` of each place.

    Returns:
      The relevance of every token of the residual stream, the class token included.

    Raises:
      ValueError: inputs do not fit the model, target or query is out of range, or the
        composite is unknown.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(
      ...     vocab_size=256, d_model=16, num_layers=2, use_conv_bias=False
      ... )
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> tokens = jnp.array([list(b"hello")])
      >>> total = jnp.sum(mamba_lrp(model, tokens, target=3))
      >>> bool(jnp.isclose(total, model(tokens).logits[0, -1, 3], atol=1e-5))
      True

    References:
      Jafari et al., "MambaLRP", arXiv 2406.07592, section 4; the SiLU rule here is
      x sigma(x) with sigma constant, which unlike their quotient conserves near 0.
    """
    question = ask(model, inputs, target, query)
    return token_relevance(*question, frozen=choose_rules(composite))


@on_any_mesh
def pixel_lrp(
    model: LayeredModel,
    images: Images | ArrayLike,
    *,
    target: TargetChoice = None,
    query: PerSample = None,
    composite: str | Gammas = "gamma_conv",
) -> Float[Array, "b height width"]:
    """Return the relevances of MambaLRP of every pixel, summed over colours.

    Relevance of tokens goes on through the embedding of patches. What the class token,
    the embeddings of places and the biases received is not part of it.

    Args:
      model: a `Vim`.
      images: normalised colours, channels last.
      target, query, composite: as in `mamba_lrp`.

    Raises:
      TypeError: the model does not read images.
      ValueError: as in `mamba_lrp`.

    Examples:
      >>> import jmamba
      >>> config = jmamba.VimConfig(
      ...     d_model=16, num_layers=2, num_classes=5, image_size=32, patch_size=8
      ... )
      >>> model = jmamba.Vim(config, rngs=nnx.Rngs(0))
      >>> pixel_lrp(model, jnp.ones((1, 32, 32, 3)), target=3).shape
      (1, 32, 32)

    References:
      Jafari et al., "MambaLRP", arXiv 2406.07592, section 4 and the rules of Vim.
    """
    if model.reads != "images":
        raise TypeError(
            f"pixel_lrp needs a Vim, but got {type(model).__name__}; mamba_lrp(...) "
            "explains texts."
        )
    question = ask(model, images, target, query)
    return _pixel_lrp(*question, frozen=choose_rules(composite))


@partial(jax.jit, static_argnames=("graphdef", "frozen"))
def _pixel_lrp(graphdef, state, images, target, query, frozen):
    model = nnx.merge(graphdef, state)

    def total(images):
        x = model.embed(images, frozen=frozen)
        return jnp.sum(pick(read_logits(model, x, query, frozen=frozen), target))

    return jnp.sum(images * jax.grad(total)(images), axis=-1)


def choose_rules(composite: str | Gammas) -> Frozen:
    """Return the rules of MambaLRP with those of linear maps, or of a named composite.

    Args:
      composite: a name in `COMPOSITES`, or the `Gammas`.

    Raises:
      ValueError: there is no such composite.

    Examples:
      >>> choose_rules("gamma_conv").linear.conv
      0.25
    """
    if isinstance(composite, str):
        if composite not in COMPOSITES:
            raise ValueError(
                f"Unknown composite {composite!r}: give {', '.join(COMPOSITES)}, or "
                "Gammas(...)."
            )
        composite = COMPOSITES[composite]
    is_plain = composite == Gammas()
    return dataclasses.replace(MAMBA_LRP, linear=None if is_plain else composite)
