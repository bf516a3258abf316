"""A gated feed-forward layer, which each token passes by itself."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.layers import freezing
from jmamba.layers.freezing import NOTHING, Frozen, call_linear
from jmamba.layers.linear import make_linear
from jmamba.layers.norm import NoNorm, Precision, RMSNorm
from jmamba.layers.places import PASS_BY, Place, Watch

NAME = "feed_forward"
"""What the names of its places begin with."""

PLACES_OF_FEED_FORWARD = tuple(
    place.under(NAME, is_mirrored=False)._replace(transformer_lens=names)
    for place, names in (
        (Place("input", "blm", "the stream between mixer and it"), ("hook_resid_mid",)),
        (Place("up", "blf", "what is gated"), ("mlp.hook_pre_linear",)),
        (Place("gate", "blf", "silu of the gate's argument"), ()),
        (Place("gated", "blf", "what the last map reads"), ("mlp.hook_post",)),
        (Place("output", "blm", "what it puts out"), ("hook_mlp_out",)),
    )
)
"""Where arrays pass in it."""


class FeedForward(nnx.Module):
    """A gated feed-forward layer behind a norm, to be added to what it reads.

        n = norm(x);  out = W_down (W_up n silu(W_gate n))

    Its gate follows the rule of the mixers' gates in explanations.

    Args:
      width: numbers between the maps.
      norm: in front of them.
      out_norm: behind them; None for none.
      d_model: width of the residual stream.
      use_bias: whether the maps have biases.
      is_fused: whether gate and up are one map, as in some checkpoints.
      gate_scale: what the gate's argument is multiplied with.
      out_scale: what the output is multiplied with.
      precision: dtypes.
      rngs: source of the initial weights.

    References:
      Shazeer, "GLU variants improve transformer", arXiv 2002.05202, SwiGLU.
    """

    places: ClassVar[tuple[Place, ...]] = PLACES_OF_FEED_FORWARD
    letters: ClassVar[Mapping[str, str]] = {
        **{f"{name}.kernel": "md" for name in ("gate_up", "gate_proj", "up_proj")},
        **{f"{name}.bias": "d" for name in ("gate_up", "gate_proj", "up_proj")},
        **{"down_proj.kernel": "dm", "down_proj.bias": "m"},
    }

    def __init__(
        self,
        width: int,
        norm: RMSNorm | NoNorm,
        *,
        out_norm: RMSNorm | None = None,
        d_model: int,
        use_bias: bool = False,
        is_fused: bool = False,
        gate_scale: float = 1.0,
        out_scale: float = 1.0,
        precision: Precision,
        rngs: nnx.Rngs,
    ):
        parts: dict[str, Any] = {"precision": precision, "rngs": rngs}
        parts["use_bias"] = use_bias
        self.norm, self.out_norm, self.is_fused = norm, out_norm, is_fused
        self.gate_scale, self.out_scale = gate_scale, out_scale
        if is_fused:
            self.gate_up = make_linear(d_model, 2 * width, **parts)
        else:
            self.gate_proj = make_linear(d_model, width, **parts)
            self.up_proj = make_linear(d_model, width, **parts)
        self.down_proj = make_linear(width, d_model, **parts)

    def __call__(
        self,
        x: Float[Array, "b l m"],
        *,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> Float[Array, "b l m"]:
        """Return what is added to the residual stream.

        Args:
          x: the residual stream behind the mixer.
          frozen: what derivatives take for constants.
          at: who edits and reads what passes.
        """
        at = at.under(NAME)
        n = self.norm(at("input", x), frozen=frozen.norm)
        return at("output", self.transform(n, frozen=frozen, at=at))

    def transform(
        self,
        n: Float[Array, "b l m"],
        *,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> Float[Array, "b l m"]:
        """Return what its maps make of what its norm puts out.

        Args:
          n: what they read.
          frozen: what derivatives take for constants.
          at: who edits and reads what passes, below the layer's name.
        """
        if self.is_fused:
            both = call_linear(self.gate_up, n, "in_proj", frozen)
            gate, up = jnp.split(both, 2, axis=-1)
        else:
            gate = call_linear(self.gate_proj, n, "in_proj", frozen)
            up = call_linear(self.up_proj, n, "in_proj", frozen)
        gate = _times(gate, self.gate_scale)
        gated = at("gated", freezing.gate(at("up", up), gate, frozen, at=at))
        out = call_linear(self.down_proj, gated, "out_proj", frozen)
        if self.out_norm is not None:
            out = self.out_norm(out, frozen=frozen.norm)
        return _times(out, self.out_scale)


def _times(x, scale: float):
    return x if scale == 1.0 else x * jnp.asarray(scale, x.dtype)
