"""Softmax attention with a sigmoid gate, and norms of queries and keys."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.layers.attention import SelfAttention
from jmamba.layers.attention_sizes import AttentionSizes
from jmamba.layers.freezing import NOTHING, Frozen, stop_gradient
from jmamba.layers.linear import make_linear
from jmamba.layers.mamba import HALVES
from jmamba.layers.mixer import GATE, Projection
from jmamba.layers.norm import Precision, RMSNorm
from jmamba.layers.places import PASS_BY, Place, Watch
from jmamba.layers.softmax import attend_values
from jmamba.types import KeyValues, SeenTokens, SoftmaxAttention


class GatedAttention(SelfAttention):
    """Softmax attention whose heads are normalised, and gated one by one.

        q, z = split(W_q x) of each head;  q = norm(q), k = norm(W_k x) of each head
        out = W_o (softmax(scale q k^T) v sigmoid(z))

    Norms have scales 1 + w. In explanations sigmoid(z) is a constant wherever a gate
    follows a rule: of a sigmoid half of the derivative would be lost.

    Args:
      sizes: of the mixer.
      eps: of the norms.
      precision: dtypes.
      rngs: source of the initial weights.

    References:
      Qiu et al., "Gated attention for large language models", arXiv 2505.06708.
    """

    places: ClassVar[tuple[Place, ...]] = (
        HALVES[1],
        *SelfAttention.places,
        GATE._replace(says="sigmoid(z), which gates what attention puts out"),
    )
    letters: ClassVar[Mapping[str, str]] = {
        **SelfAttention.letters,
        **{"q_norm.scale": "_", "k_norm.scale": "_"},
    }

    def __init__(
        self, sizes: AttentionSizes, *, eps: float, precision: Precision, rngs: nnx.Rngs
    ):
        super().__init__(sizes, precision=precision, rngs=rngs)
        width = sizes.query_width
        self.q_proj = make_linear(
            sizes.d_model,
            2 * sizes.num_query_heads * width,
            use_bias=sizes.use_attention_bias,
            precision=precision,
            rngs=rngs,
        )
        norm: dict[str, Any] = {"eps": eps, "offset": 1.0, "precision": precision}
        self.q_norm, self.k_norm = RMSNorm(width, **norm), RMSNorm(width, **norm)

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
        """Make queries, keys, values and gates; see `SelfAttention.project`."""
        context: dict[str, Any] = {"lengths": lengths, "segment_ids": segment_ids}
        q, k, v = self.project_in(x, frozen)
        shape, width = (*x.shape[:2], -1), self.sizes.query_width
        q, z = jnp.split(q.reshape(*shape, 2 * width), 2, axis=-1)
        q, k = self.q_norm(q), self.k_norm(k.reshape(*shape, width))
        q, k, z = q.reshape(shape), k.reshape(shape), at("z", z.reshape(shape))
        made = self.make_heads(q, k, v, kept, frozen=frozen, at=at, **context)
        return made._replace(recurrence=made.recurrence._replace(z=z))

    def run(
        self,
        recurrence: SoftmaxAttention,
        *,
        state: KeyValues | None = None,
        segment_ids: Any = None,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> tuple[Float[Array, "b l d"], KeyValues]:
        """Return what the output projection reads; see `SelfAttention.run`."""
        y, state = attend_values(recurrence, state)
        return self.gate(at("y", y), recurrence, frozen=frozen, at=at), state

    def gate(
        self,
        y: Float[Array, "b l d"],
        recurrence: SoftmaxAttention,
        *,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> Float[Array, "b l d"]:
        """Return y sigmoid(z)."""
        assert recurrence.z is not None
        gate = jax.nn.sigmoid(recurrence.z)
        gate = gate if frozen.gate == "no" else stop_gradient(gate)
        return y * at("gate", gate).astype(y.dtype)
