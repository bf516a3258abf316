"""The causal depthwise convolution of a layer, and what it needs of earlier tokens."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.layers import freezing
from jmamba.layers.freezing import NOTHING, Frozen
from jmamba.layers.mixer import Convolution
from jmamba.layers.norm import Precision
from jmamba.layers.places import PASS_BY, Place, Watch
from jmamba.ops import causal_conv1d
from jmamba.ops.causal_conv1d import ConvOutput, count_segments

PLACES_OF_CONVOLUTION = (
    Place("conv_past", "blc", "what earlier tokens add to the convolution's output"),
    Place(
        "conv",
        "blc",
        "the convolution's output, in front of silu",
        ("hook_conv",),
        ("mixer.conv1d.hook_out",),
    ),
)
"""Where values pass in the convolution."""


class Convolver(nnx.Module):
    """A window of weights for each channel, and silu behind it or nothing.

    Args:
      channels: how many.
      window: tokens that it reads.
      use_bias: whether it has a bias.
      precision: dtypes.
      rngs: source of the initial weights.
    """

    letters: ClassVar[Mapping[str, str]] = {"weight": "dk", "bias": "d"}

    def __init__(
        self,
        channels: int,
        window: int,
        use_bias: bool,
        *,
        precision: Precision,
        rngs: nnx.Rngs,
    ):
        bound, shape = window**-0.5, (channels, window)
        uniform = jax.random.uniform
        weight = uniform(rngs.params(), shape, precision.param, -bound, bound)
        bias = uniform(rngs.params(), shape[:1], precision.param, -bound, bound)
        self.weight = nnx.Param(weight)
        self.bias = nnx.Param(bias) if use_bias else None

    def convolve(
        self,
        x: Float[Array, "b l d"],
        *,
        activation: str | None = None,
        frozen: Frozen = NOTHING,
        initial_state: Float[Array, "b d _"] | None = None,
        **options: Any,
    ) -> ConvOutput:
        """Run the convolution.

        Args:
          x: what it reads.
          activation: None or "silu"; None if there is a rule for linear maps.
          frozen: how linear maps are differentiated.
          initial_state: the inputs before the first token.
          **options: of `causal_conv1d`.
        """
        bias = None if self.bias is None else self.bias[...]
        operands = x, self.weight[...], bias, initial_state

        def run(operands, activation=None):
            x, weight, bias, state = operands
            return causal_conv1d(
                x, weight, bias, activation=activation, initial_state=state, **options
            )

        out = run(operands, activation)
        if frozen.linear is None:
            return out
        assert activation is None
        return out._replace(
            y=frozen.linear("conv", lambda operands: run(operands).y, operands)
        )

    def activate(
        self,
        x: Float[Array, "b l d"],
        *,
        kept: Float[Array, "b d _"] | None = None,
        lengths: Int[Array, "b"] | None = None,
        segment_ids: Int[Array, "b l"] | None = None,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
        is_linear: bool = False,
    ) -> tuple[Float[Array, "b l d"], Float[Array, "b d _"]]:
        """Return silu(conv(x)) and the last inputs of the convolution.

        Args:
          x: what it reads.
          kept: the k-1 inputs before the first token.
          lengths: tokens per row, the rest being padding on the right.
          segment_ids: packed sequences, see `causal_conv1d`.
          frozen: what derivatives take for constants.
          at: who edits and reads what passes in front of silu.
          is_linear: whether silu is left out.
        """
        options: dict[str, Any] = {"initial_state": kept, "segment_ids": segment_ids}
        is_asked = at.asks(*(place.name for place in PLACES_OF_CONVOLUTION))
        if is_linear or frozen.activation or frozen.linear is not None or is_asked:
            a, last = self.convolve(x, frozen=frozen, **options)
            if at.asks("conv_past"):
                a = at("conv_past", self._past(x, **options)) + self._own(x)
            a = at("conv", a)
            u = a if is_linear else freezing.silu(a, frozen)
        else:
            u, last = self.convolve(x, activation="silu", **options)
        if lengths is not None:
            window = self.weight.shape[1]
            last = _last_inputs(x, kept, lengths, segment_ids, window)
        return u, last

    def _past(self, x, **options):
        """Return what earlier tokens add to each output."""
        weight = self.weight[...].at[:, -1].set(0)
        return causal_conv1d(x, weight, None, **options).y

    def _own(self, x):
        """Return what each token adds to its own output, the bias included."""
        own = x * self.weight[:, -1].astype(x.dtype)[None, None]
        return (
            own
            if self.bias is None
            else own + self.bias[...].astype(x.dtype)[None, None]
        )

    def factors(
        self, x: Float[Array, "b l d"], channels: slice = slice(None)
    ) -> Convolution:
        """Return what makes some of its outputs of the same channels of x.

        Args:
          x: what it reads.
          channels: which outputs; None for all.
        """
        bias = None if self.bias is None else self.bias[channels]
        return Convolution(x[..., channels], self.weight[channels], bias)


def _last_inputs(x, conv_state, lengths, segment_ids, window):
    """Return the last k-1 convolution inputs of each row of the given length.

    As in `causal_conv1d`, inputs of another segment than the last are zero.
    """
    if conv_state is None:
        conv_state = jnp.zeros((x.shape[0], x.shape[2], window - 1), x.dtype)
    past = jnp.swapaxes(conv_state, 1, 2).astype(x.dtype)  # b d k-1 -> b k-1 d
    padded = jnp.concatenate([past, x], axis=1)
    index = lengths[:, None] + jnp.arange(window - 1, dtype=lengths.dtype)[None]
    last = jnp.take_along_axis(padded, index[:, :, None], axis=1)
    if segment_ids is not None:
        runs = count_segments(segment_ids, window - 1)
        runs = jnp.take_along_axis(runs, index, axis=1)
        last = jnp.where((runs == runs[:, -1:])[:, :, None], last, 0)
    return jnp.swapaxes(last, 1, 2)  # b k-1 d -> b d k-1
