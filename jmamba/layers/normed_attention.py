"""Softmax attention with norms of queries and keys."""

from collections.abc import Mapping
from typing import Any, ClassVar

from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.layers.attention import SelfAttention
from jmamba.layers.attention_sizes import AttentionSizes
from jmamba.layers.freezing import NOTHING, Frozen, call_linear
from jmamba.layers.mixer import Projection
from jmamba.layers.norm import Precision, RMSNorm
from jmamba.layers.places import PASS_BY, Watch
from jmamba.types import SeenTokens


class NormedAttention(SelfAttention):
    """Softmax attention between norms: of queries and keys, and of what it puts out.

        q = norm(W_q x), k = norm(W_k x), over all heads together
        out = norm(W_o softmax(scale q k^T) v)

    The output projection is linear up to that norm's 1/rms.

    Args:
      sizes: of the mixer.
      eps: of the norms.
      precision: dtypes.
      rngs: source of the initial weights.

    References:
      OLMo Team, "2 OLMo 2 Furious", arXiv 2501.00656, section 2, for norms behind
      layers and of queries and keys.
    """

    letters: ClassVar[Mapping[str, str]] = {
        **SelfAttention.letters,
        **{"q_norm.scale": "d", "k_norm.scale": "d", "out_norm.scale": "m"},
    }

    def __init__(
        self, sizes: AttentionSizes, *, eps: float, precision: Precision, rngs: nnx.Rngs
    ):
        super().__init__(sizes, precision=precision, rngs=rngs)
        width, norm = sizes.query_width, {"eps": eps, "precision": precision}
        self.q_norm = RMSNorm(sizes.num_query_heads * width, **norm)
        self.k_norm = RMSNorm(sizes.num_kv_heads * width, **norm)
        self.out_norm = RMSNorm(sizes.d_model, **norm)

    def project(
        self,
        x: Float[Array, "b l m"],
        *,
        kept: SeenTokens | None = None,
        lengths: Int[Array, "b"] | None = None,
        segment_ids: Int[Array, "b l"] | None = None,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> Projection:
        """Make queries, keys and values of all heads; see `SelfAttention.project`."""
        context: dict[str, Any] = {"lengths": lengths, "segment_ids": segment_ids}
        q, k, v = (
            call_linear(layer, x, "in_proj", frozen)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = self.q_norm(q), self.k_norm(k)
        return self.make_heads(q, k, v, kept, frozen=frozen, at=at, **context)

    def project_out(
        self, y: Float[Array, "b l d"], *, frozen: Frozen = NOTHING
    ) -> Float[Array, "b l m"]:
        """Return norm(W_o y)."""
        return self.out_norm(super().project_out(y, frozen=frozen), frozen=frozen.norm)
