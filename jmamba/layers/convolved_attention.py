"""Softmax attention behind a causal convolution."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.layers.attention import SelfAttention
from jmamba.layers.attention_sizes import AttentionSizes
from jmamba.layers.convolution import PLACES_OF_CONVOLUTION, Convolver
from jmamba.layers.freezing import NOTHING, Frozen, call_linear
from jmamba.layers.linear import make_linear
from jmamba.layers.mamba import AROUND
from jmamba.layers.mixer import Projection
from jmamba.layers.norm import Precision
from jmamba.layers.places import PASS_BY, Place, Watch
from jmamba.types import AttentionCache, SeenTokens


class ConvolvedAttention(SelfAttention):
    """Softmax attention whose queries, keys and values pass a convolution first.

        q, k, v = split(conv(W_in x));  q, k = rotate_pairs(q), rotate_pairs(k)
        out = W_out softmax(scale q k^T) v

    There is no activation behind the convolution.

    Args:
      sizes: of the mixer.
      window: of the convolution.
      precision: dtypes.
      rngs: source of the initial weights.

    References:
      Dao & Gu, "Transformers are SSMs", arXiv 2405.21060, section 9.2.3; the layer is
      `MHA` of their code.
    """

    places: ClassVar[tuple[Place, ...]] = (
        Place("x", "blc", "what the convolution reads: of queries, keys and values"),
        *PLACES_OF_CONVOLUTION,
        *SelfAttention.places,
    )
    letters: ClassVar[Mapping[str, str]] = {
        **AROUND,
        **{"conv1d.weight": "_k", "conv1d.bias": "_"},
    }

    def __init__(
        self,
        sizes: AttentionSizes,
        *,
        window: int,
        precision: Precision,
        rngs: nnx.Rngs,
    ):
        m, width = sizes.d_model, sizes.query_width
        parts: dict[str, Any] = {"precision": precision, "rngs": rngs}
        biased = {**parts, "use_bias": sizes.use_attention_bias}
        self.ends = (
            sizes.num_query_heads * width,
            (sizes.num_query_heads + sizes.num_kv_heads) * width,
        )
        channels = self.ends[1] + sizes.num_kv_heads * width
        self.in_proj = make_linear(m, channels, **biased)
        self.conv1d = Convolver(channels, window, True, **parts)
        self.out_proj = make_linear(self.ends[0], m, **biased)
        self.sizes, self.window = sizes, window

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
        context |= {"frozen": frozen, "at": at}
        qkv, last = self.conv1d.activate(
            at("x", call_linear(self.in_proj, x, "in_proj", frozen)),
            kept=None if kept is None else kept.conv_state,
            is_linear=True,
            **context,
        )
        q, k, v = jnp.split(qkv, self.ends, axis=-1)
        projection = self.make_heads(q, k, v, kept, **context)
        return projection._replace(kept=projection.kept._replace(conv_state=last))

    def project_out(
        self, y: Float[Array, "b l d"], *, frozen: Frozen = NOTHING
    ) -> Float[Array, "b l m"]:
        """Return W_out y."""
        return call_linear(self.out_proj, y, "out_proj", frozen)

    def empty_cache(self, batch: int, dtype: Any) -> AttentionCache:
        """Return a cache without tokens, and zeros for the convolution's inputs."""
        cache = super().empty_cache(batch, dtype)
        channels = self.ends[1] + self.sizes.num_kv_heads * self.sizes.query_width
        conv_state = jnp.zeros((batch, channels, self.window - 1), dtype)
        return cache._replace(reach=cache.reach._replace(conv_state=conv_state))
