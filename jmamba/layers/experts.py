"""Feed-forward layers of experts, of which each token passes a few."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.layers import freezing
from jmamba.layers.dispatch import dispatch_tokens, read_blocks, sum_choices
from jmamba.layers.feed_forward import NAME, PLACES_OF_FEED_FORWARD, FeedForward
from jmamba.layers.freezing import NOTHING, Frozen, stop_gradient
from jmamba.layers.linear import make_linear
from jmamba.layers.norm import Precision, RMSNorm
from jmamba.layers.places import PASS_BY, Place, Watch
from jmamba_kernels import accumulation_dtype


class ExpertSizes(NamedTuple):
    """How many experts there are, and who passes which.

    Attributes:
      number: of experts.
      per_token: how many each token passes.
      width: numbers between the maps of each.
      is_renormalised: whether the weights of a token's experts add up to 1.
    """

    number: int
    per_token: int
    width: int
    is_renormalised: bool = False


class ExpertMaps(nnx.Module):
    """Maps of all experts, one behind the other.

    Args:
      sizes: of the experts.
      d_model: width of the residual stream.
      is_fused: whether gate and up are one map.
      precision: dtypes.
      rngs: source of the initial weights.
    """

    def __init__(
        self,
        sizes: ExpertSizes,
        *,
        d_model: int,
        is_fused: bool,
        precision: Precision,
        rngs: nnx.Rngs,
    ):
        def draw(size_in, size_out):
            shape, bound = (sizes.number, size_in, size_out), size_in**-0.5
            key, dtype = rngs.params(), precision.param
            return nnx.Param(jax.random.uniform(key, shape, dtype, -bound, bound))

        if is_fused:
            self.gate_up = draw(d_model, 2 * sizes.width)
        else:
            self.gate_proj = draw(d_model, sizes.width)
            self.up_proj = draw(d_model, sizes.width)
        self.down_proj = draw(sizes.width, d_model)


class ExpertLayer(nnx.Module):
    """Experts behind a norm, to be added to what it reads.

        n = norm(x);  p = softmax(W_r n), of which the k greatest count
        out = sum_{e in top k} p_e W_down[e] (W_up[e] n silu(W_gate[e] n)) + shared(n)

    perhaps with p over the sum of its k greatest, and sigmoid(W_s n) times shared(n).
    All tokens reach the experts they chose, in blocks that are products of matrices. In
    explanations each expert's gate follows the rule of the mixers' gates. Which experts
    a token passes is never differentiated. p and sigmoid(W_s n) are constants wherever
    selection and gates follow rules (MambaLRP, unified attention, token vectors), so
    that relevance is conserved; ordinary gradients go through them.

    Args:
      sizes: of the experts.
      norm: in front of them.
      d_model: width of the residual stream.
      shared: what all tokens pass beside, without a norm of its own; None for nothing.
      is_shared_gated: whether that is gated by a number of each token.
      is_fused: whether gate and up are one map, as in some checkpoints.
      precision: dtypes.
      rngs: source of the initial weights.

    References:
      Shazeer et al., "Outrageously large neural networks", arXiv 1701.06538; Lieber et
      al., "Jamba", arXiv 2403.19887, section 3.2.
    """

    places: ClassVar[tuple[Place, ...]] = (
        PLACES_OF_FEED_FORWARD[0],
        Place("weights", "bl_", "weights of the experts a token passes").under(
            NAME, is_mirrored=False
        ),
        PLACES_OF_FEED_FORWARD[-1],
    )
    letters: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        sizes: ExpertSizes,
        norm: RMSNorm,
        *,
        d_model: int,
        shared: FeedForward | None = None,
        is_shared_gated: bool = False,
        is_fused: bool = False,
        precision: Precision,
        rngs: nnx.Rngs,
    ):
        parts: dict[str, Any] = {"precision": precision, "rngs": rngs}
        self.norm, self.shared = norm, shared
        self.router = make_linear(d_model, sizes.number, use_bias=False, **parts)
        gate = make_linear(d_model, 1, use_bias=False, **parts)
        self.shared_gate = nnx.data(gate if is_shared_gated else None)
        self.experts = ExpertMaps(sizes, d_model=d_model, is_fused=is_fused, **parts)
        self.sizes, self.is_fused = sizes, is_fused

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
        weights, choices = self.route(n)
        if frozen.selection:
            weights = stop_gradient(weights)
        weights = at("weights", weights)
        flat, each = n.reshape(-1, n.shape[-1]), self.sizes.per_token
        out = self._pass(
            flat, weights.reshape(-1, each), choices.reshape(-1, each), frozen
        )
        out = out.reshape(n.shape)
        if self.shared is not None:
            out = out + self._share(n, frozen)
        return at("output", out)

    def _share(self, n, frozen: Frozen):
        """Return what all tokens pass beside the experts."""
        assert self.shared is not None
        out = self.shared.transform(n, frozen=frozen)
        if self.shared_gate is None:
            return out
        gate = jax.nn.sigmoid(self.shared_gate(n))
        return out * (gate if frozen.gate == "no" else stop_gradient(gate))

    def route(self, n: Float[Array, "b l m"]) -> tuple[Any, Any]:
        """Return the weights of the experts that tokens pass, and which these are.

        Args:
          n: what experts read.
        """
        logits = self.router(n).astype(accumulation_dtype(n.dtype))
        weights, choices = jax.lax.top_k(
            jax.nn.softmax(logits, axis=-1), self.sizes.per_token
        )
        if self.sizes.is_renormalised:
            weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
        return weights, choices

    def _pass(self, n, weights, choices, frozen: Frozen):
        """Return the weighed sum of what experts make of tokens (t, m)."""
        dispatch, own = dispatch_tokens(choices, self.sizes.number), self.experts
        blocks = read_blocks(n, dispatch)

        def apply(maps, x, place):
            maps = maps[...].astype(x.dtype)[dispatch.expert]

            def run(operands):
                maps, x = operands
                return jnp.einsum("bsm,bmf->bsf", x, maps)

            if frozen.linear is None:
                return run((maps, x))
            return frozen.linear(place, run, (maps, x))

        if self.is_fused:
            gate, up = jnp.split(apply(own.gate_up, blocks, "in_proj"), 2, axis=-1)
        else:
            gate = apply(own.gate_proj, blocks, "in_proj")
            up = apply(own.up_proj, blocks, "in_proj")
        made = apply(own.down_proj, freezing.gate(up, gate, frozen), "out_proj")
        return sum_choices(made, weights, dispatch)
