"""A mixer as a product of matrices, one product per channel."""

from collections.abc import Collection
from typing import NamedTuple

from jaxtyping import Array, Float

from jmamba.requests import check_sizes
from jmamba.types import (
    AnyRecurrence,
    BidirectionalRecurrence,
    OfHeads,
    Recurrence,
    SideBySide,
    SoftmaxAttention,
)

FOLDS = ("D", "silu", "conv", "gate")
"""What may be folded into the attention of a recurrence."""

SORTED = (
    "This layer sorts its tokens (VimConfig.reorder), and each direction by itself: "
    "the matrices of its recurrences are not attention between tokens of the image. "
    "gradient_x_input, mamba_lrp and token_vectors(block, x) go through the order and "
    "hold as they are"
)
"""Why there is no attention between the tokens of such a layer."""


class Factors(NamedTuple):
    """What lies between the projections of a mixer, read as linear maps of tokens.

        out[:, d] = gate (alpha + D) slope (conv x + bias)    for every channel d

    Here alpha is the matrix of the recurrence, D, slope = sigma(a) and gate are
    diagonal ones, and conv is a band of the taps. It holds exactly, as
    silu(a) = sigma(a) a, and as a gate, with a norm beside it or without, multiplies y
    with something that depends on the data: silu(z) in Mamba-1.

    Attributes:
      recurrence: of one direction.
      x: what the convolution reads; the recurrence's inputs u where there is none.
      gate: what y is multiplied with on its way to the output projection.
      slope: sigma(a); None where there is no convolution.
      taps: of the convolution; None where there is none.
      bias: of the convolution; None where there is none.

    Examples:
      >>> import jax.numpy as jnp, jmamba
      >>> from flax import nnx
      >>> from jmamba.attention import factorise
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> block = jmamba.MambaLM(config, rngs=nnx.Rngs(0)).layer(0)
      >>> factors = factorise(block, jnp.ones((1, 5, 16)))
      >>> u = factors.slope * block.mixer.conv1d.convolve(factors.x).y
      >>> bool(jnp.allclose(u, factors.recurrence.u, atol=1e-6))
      True

    References:
      Zimerman et al., arXiv 2405.16504, section 3; the skip D and the bias, which
      their code leaves out, are part of the identity.
    """

    recurrence: Recurrence
    x: Float[Array, "*s b l d"]
    gate: Float[Array, "*s b l d"]
    slope: Float[Array, "*s b l d"] | None = None
    taps: Float[Array, "*s d k"] | None = None
    bias: Float[Array, "*s d"] | None = None


class BidirectionalFactors(NamedTuple):
    """The factors of both directions; those of `backward` run from the last token.

    The mixer's output projection reads (forward + flipped backward) scale.

    Examples:
      >>> import jax.numpy as jnp, jmamba
      >>> from flax import nnx
      >>> from jmamba.attention import factorise
      >>> config = jmamba.VimConfig(d_model=16, num_layers=2, num_classes=5)
      >>> block = jmamba.Vim(config, rngs=nnx.Rngs(0)).layer(0)
      >>> factors = factorise(block, jnp.ones((1, 5, 16)))
      >>> factors.backward.x.shape, float(factors.scale)
      ((1, 5, 32), 0.5)
    """

    forward: Factors
    backward: Factors
    scale: Float[Array, ""]


AnyInputs = AnyRecurrence | Factors | BidirectionalFactors
"""What attention is computed from; only factors know all that may be folded in."""


def split_directions(inputs: AnyInputs) -> tuple[Recurrence | Factors, ...]:
    """Return the one direction of a text's layer, or the two of an image's.

    Raises:
      ValueError: the layer sorts its tokens.
    """
    if isinstance(inputs, BidirectionalRecurrence) and inputs.orders is not None:
        raise ValueError(
            f"{SORTED}; recurrence._replace(orders=None) gives that between the places "
            "of the new order, and is exact where orders are the identity."
        )
    if isinstance(inputs, BidirectionalRecurrence | BidirectionalFactors):
        return inputs.forward, inputs.backward
    return (inputs,)


def first_recurrence(inputs: AnyInputs) -> Recurrence:
    """Return the recurrence of the only, or the forward direction.

    Raises:
      ValueError: the layer sorts its tokens, or an axis is empty.
    """
    one = recurrence_in(split_directions(inputs)[0])
    (b, l, d), n = one.u.shape[-3:], one.B.shape[-1]  # noqa: E741
    check_sizes("attention", {"b": b, "l": l, "d": d, "n": n})
    return one


def recurrence_in(inputs: Recurrence | Factors) -> Recurrence:
    """Return the recurrence of one direction."""
    return inputs.recurrence if isinstance(inputs, Factors) else inputs


def check_fold(inputs: AnyInputs | OfHeads | SideBySide, fold: Collection[str]) -> None:
    """Raise unless the parts can be folded into the attention of these inputs.

    Raises:
      ValueError: a part is unknown, or needs `factorise`.
    """
    unknown = [part for part in fold if part not in FOLDS]
    if isinstance(fold, str) or unknown:
        raise ValueError(
            f"fold={fold!r}: give some of {', '.join(FOLDS)}, as in "
            'fold=("conv", "silu"), or () for the recurrence alone.'
        )
    if isinstance(inputs, SideBySide):
        return check_fold(inputs.recurrent, fold)
    if isinstance(inputs, OfHeads):
        if fold:
            around = "what is around a gated recurrence is no part of its matrices"
            if isinstance(inputs, SoftmaxAttention):
                around = "softmax attention has nothing around it that could be part"
            raise ValueError(f"fold={tuple(fold)}: {around}; give fold=().")
        return
    has_factors = all(isinstance(one, Factors) for one in split_directions(inputs))
    if not has_factors and needs_factors(fold):
        raise ValueError(
            f"fold={tuple(fold)} needs what is around the recurrence, its convolution "
            "and how its output is gated, which only the layer knows: give "
            "factorise(model.layer(i), residual_in) in place of the recurrence."
        )


def needs_factors(fold: Collection[str]) -> bool:
    """Return whether a recurrence alone does not hold what is to be folded in."""
    return not {"silu", "conv", "gate"}.isdisjoint(fold)
