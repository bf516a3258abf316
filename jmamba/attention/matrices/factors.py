"""A mixer as a product of matrices, one product per channel."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmamba.layers.bidirectional import BidirectionalMixer, VimBlock
from jmamba.layers.mixer import Block
from jmamba.layers.selection import Selection
from jmamba.ops import selective_scan
from jmamba.types import BidirectionalInputs, SSMInputs

PARTS = ("D", "silu", "conv", "gate")
"""What may be folded into the attention of a recurrence."""


_SORTED = (
    "This layer sorts its tokens (VimConfig.reorder), and each direction by itself: "
    "the matrices of its recurrences are not attention between tokens of the image. "
    "gradient_x_input, mamba_lrp and token_vectors(block, x) go through the order and "
    "hold as they are"
)


class Factors(NamedTuple):
    """What lies between the projections of a mixer, read as linear maps of tokens.

        out[:, d] = gate (alpha + D) slope (conv x + bias)    for every channel d

    Here alpha is the matrix of the recurrence, D, slope = sigma(a) and gate = silu(z)
    are diagonal ones, and conv is a band of the taps. It holds exactly, as
    silu(a) = sigma(a) a.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> block = jmamba.MambaLM(config, rngs=nnx.Rngs(0)).layer(0)
      >>> factors = factorise(block, jnp.ones((1, 5, 16)))
      >>> u = factors.slope * block.mixer.convolve(factors.x).y
      >>> bool(jnp.allclose(u, factors.ssm.u, atol=1e-6))
      True

    References:
      Zimerman et al., arXiv 2405.16504, section 3; the skip D and the bias, which
      their code leaves out, are part of the identity.
    """

    ssm: SSMInputs
    x: Float[Array, "*s b l d"]
    slope: Float[Array, "*s b l d"]
    taps: Float[Array, "*s d k"]
    bias: Float[Array, "*s d"]


class BidirectionalFactors(NamedTuple):
    """The factors of both directions; those of `backward` run from the last token.

    The mixer's output projection reads (forward + flipped backward) scale.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.VimConfig(d_model=16, num_layers=2, num_classes=5)
      >>> block = jmamba.Vim(config, rngs=nnx.Rngs(0)).layer(0)
      >>> factors = factorise(block, jnp.ones((1, 5, 16)))
      >>> factors.backward.x.shape, float(factors.scale)
      ((1, 5, 32), 0.5)
    """

    forward: Factors
    backward: Factors
    scale: Float[Array, ""]


AnyInputs = SSMInputs | BidirectionalInputs | Factors | BidirectionalFactors
"""What attention is computed from; only factors let the convolution be folded in."""


def factorise(
    block: Block | VimBlock, x: Float[Array, "b l m"]
) -> Factors | BidirectionalFactors:
    """Return the factors of a block's mixer.

    Args:
      block: `model.layer(i)`.
      x: the residual stream entering it, `trace(...).residual_in[s]`.

    Raises:
      ValueError: the block sorts its tokens.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> t = jmamba.trace(model, jnp.array([list(b"hello")]), layers=[1])
      >>> factors = factorise(model.layer(1), t.residual_in[0])
      >>> factors.slope.shape, factors.taps.shape
      ((1, 5, 32), (32, 4))
    """
    mixer = block.mixer
    x, z = jnp.split(mixer.in_proj(block.norm(x)), 2, axis=-1)
    if not isinstance(mixer, BidirectionalMixer):
        return _factors(mixer, x, z)
    if mixer.sorting is not None:
        raise ValueError(f"{_SORTED}.")
    forward = _factors(mixer.forward, x, z)
    backward = _factors(mixer.backward, jnp.flip(x, axis=1), jnp.flip(z, axis=1))
    return BidirectionalFactors(forward, backward, jnp.asarray(mixer.scale, x.dtype))


def _factors(selection: Selection, x, z) -> Factors:
    taps, bias = selection.conv1d.weight[...], selection.conv1d.bias
    return Factors(
        ssm=selection.select(x, z),
        x=x,
        slope=jax.nn.sigmoid(selection.convolve(x).y),
        taps=taps,
        bias=jnp.zeros_like(taps[:, 0]) if bias is None else bias[...],
    )


def bias_output(factors: Factors | BidirectionalFactors) -> Float[Array, "b l d"]:
    """Return what the convolution's bias contributes to a mixer's gated output.

        gate (alpha + D) slope bias

    With it, attention into which everything is folded gives the output exactly:
    `hidden_attention(factors, fold=PARTS) @ x + bias_output(factors)`. Of two
    directions it is the sum, not scaled.

    Args:
      factors: what `factorise` returned.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> from jmamba.attention import hidden_attention
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> block = jmamba.MambaLM(config, rngs=nnx.Rngs(0)).layer(0)
      >>> x = jnp.ones((1, 5, 16))
      >>> factors = factorise(block, x)
      >>> alpha = hidden_attention(factors, fold=PARTS)
      >>> seen = jnp.einsum("bdij,bjd->bid", alpha, factors.x)
      >>> out = block.mixer.out_proj(seen + bias_output(factors))
      >>> bool(jnp.allclose(x + out, block(x).x, atol=1e-5))
      True
    """
    if isinstance(factors, BidirectionalFactors):
        backward = bias_output(factors.backward)
        return bias_output(factors.forward) + jnp.flip(backward, axis=1)
    u = factors.slope * factors.bias[None, None].astype(factors.slope.dtype)
    return selective_scan(u, *factors.ssm[1:7]).y


def directions_of(inputs: AnyInputs) -> tuple[SSMInputs | Factors, ...]:
    """Return the one direction of a text's layer, or the two of an image's.

    Raises:
      ValueError: the layer sorts its tokens.
    """
    if isinstance(inputs, BidirectionalInputs) and inputs.orders is not None:
        raise ValueError(
            f"{_SORTED}; ssm._replace(orders=None) gives that between the places of "
            "the new order, and is exact where orders are the identity."
        )
    if isinstance(inputs, BidirectionalInputs | BidirectionalFactors):
        return inputs.forward, inputs.backward
    return (inputs,)


def parameters_of(inputs: SSMInputs | Factors) -> SSMInputs:
    """Return the selective parameters of one direction."""
    return inputs.ssm if isinstance(inputs, Factors) else inputs
