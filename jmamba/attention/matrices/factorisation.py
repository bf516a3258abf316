"""Taking a block's mixer apart into factors."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmamba.attention.matrices.factors import (
    SORTED,
    BidirectionalFactors,
    Factors,
)
from jmamba.layers.block import Block
from jmamba.layers.freezing import UNIFIED
from jmamba.layers.mixer import Convolution, Mixer
from jmamba.layers.recurrence import directions_of, run_recurrence
from jmamba.ops import causal_conv1d
from jmamba.ops.meshes import on_any_mesh
from jmamba.types import BidirectionalRecurrence, OfHeads, Recurrence, SideBySide


@on_any_mesh
def factorise(block: Block, x: Float[Array, "b l m"]) -> Any:
    """Return the `Factors` of a block, or the `BidirectionalFactors` of two directions.

    Of a recurrence and attention side by side, they are a `SideBySide` of the factors
    of the one and the other as it is.

    Args:
      block: `model.layer(i)`.
      x: the residual stream entering it, `trace(...).residual_in[s]`.

    Raises:
      ValueError: the block sorts its tokens, or is of softmax attention or a gated
        recurrence.

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
    recurrence, _, convolutions = block.project(x)
    if isinstance(recurrence, SideBySide):
        mixer: Any = block.mixer
        own = _factorise_direction(
            mixer.recurrent, recurrence.recurrent, *convolutions or (None,)
        )
        return SideBySide(own, recurrence.attention)
    if isinstance(recurrence, OfHeads):
        raise ValueError(
            f"This block projects to {type(recurrence).__name__}, which has no "
            "factors: give block.project(x).recurrence as it is, and fold nothing in."
        )
    directions = directions_of(recurrence)
    orders = getattr(recurrence, "orders", None)
    if orders is not None and not convolutions:
        raise ValueError(f"{SORTED}.")
    made = [
        _factorise_direction(block.mixer, one, convolution)
        for one, convolution in zip(
            directions, convolutions or (None,) * len(directions), strict=True
        )
    ]
    if not isinstance(recurrence, BidirectionalRecurrence):
        return made[0]
    scale = jnp.asarray(block.mixer.scale, made[0].x.dtype)
    return BidirectionalFactors(made[0], made[1], scale)


def _factorise_direction(
    mixer: Mixer, recurrence: Recurrence, convolution: Convolution | None
) -> Factors:
    gate = _gate_weights(mixer, recurrence)
    if convolution is None:
        return Factors(recurrence, recurrence.u, gate)
    x, taps, bias = convolution
    slope = jax.nn.sigmoid(causal_conv1d(x, taps, bias).y)
    bias = jnp.zeros_like(taps[:, 0]) if bias is None else bias
    return Factors(recurrence, x, gate, slope, taps, bias)


def _gate_weights(mixer: Mixer, recurrence: Recurrence) -> Float[Array, "b l d"]:
    """Return what a gate, and a norm beside it, multiply y with.

    With all that depends on the data held constant they are a diagonal linear map,
    which puts out its weights for an input of ones.
    """
    y = mixer.recur(recurrence).y
    _, weights = jax.jvp(
        lambda y: mixer.gate(y, recurrence, frozen=UNIFIED), (y,), (jnp.ones_like(y),)
    )
    return weights


@on_any_mesh
def bias_output(factors: Factors | BidirectionalFactors) -> Float[Array, "b l d"]:
    """Return what the convolution's bias contributes to a mixer's gated output.

        gate (alpha + D) slope bias

    With it, attention into which everything is folded gives the output exactly:
    `hidden_attention(factors, fold=FOLDS) @ x + bias_output(factors)`. Of two
    directions it is the sum, not scaled.

    Args:
      factors: what `factorise` returned.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> from jmamba.attention import FOLDS, hidden_attention
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> block = jmamba.MambaLM(config, rngs=nnx.Rngs(0)).layer(0)
      >>> x = jnp.ones((1, 5, 16))
      >>> factors = factorise(block, x)
      >>> alpha = hidden_attention(factors, fold=FOLDS)
      >>> seen = jnp.einsum("bdij,bjd->bid", alpha, factors.x)
      >>> out = block.mixer.project_out(seen + bias_output(factors))
      >>> bool(jnp.allclose(x + out, block(x).x, atol=1e-5))
      True
    """
    if isinstance(factors, BidirectionalFactors):
        backward = bias_output(factors.backward)
        return bias_output(factors.forward) + jnp.flip(backward, axis=1)
    if factors.slope is None or factors.bias is None:
        return jnp.zeros_like(factors.x)
    u = factors.slope * factors.bias[None, None].astype(factors.slope.dtype)
    return run_recurrence(factors.recurrence._replace(u=u)).y * factors.gate
