"""Softmax attention with norms of queries and keys."""

from collections.abc import Mapping
from typing import ClassVar

from flax import nnx
from jaxtyping import Array, Float

from jmamba.layers.attention import SelfAttention
from jmamba.layers.attention_sizes import AttentionSizes
from jmamba.layers.freezing import NOTHING, Frozen
from jmamba.layers.norm import Precision, RMSNorm


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

    def project_in(
        self, x: Float[Array, "b l m"], frozen: Frozen
    ) -> tuple[Float[Array, "b l _q"], Float[Array, "b l _k"], Float[Array, "b l _v"]]:
        """Return normalised queries and keys, and values, of all heads together."""
        q, k, v = super().project_in(x, frozen)
        return self.q_norm(q), self.k_norm(k), v

    def project_out(
        self, y: Float[Array, "b l d"], *, frozen: Frozen = NOTHING
    ) -> Float[Array, "b l m"]:
        """Return norm(W_o y)."""
        return self.out_norm(super().project_out(y, frozen=frozen), frozen=frozen.norm)
