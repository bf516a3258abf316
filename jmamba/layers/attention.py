"""Softmax attention as a mixer: grouped queries, rotations, keys that are kept."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.layers.attention_sizes import AttentionSizes
from jmamba.layers.freezing import NOTHING, Frozen, call_linear, stop_gradient
from jmamba.layers.linear import make_linear
from jmamba.layers.mixer import OpenMixer, Projection
from jmamba.layers.norm import Precision
from jmamba.layers.places import PASS_BY, Place, Watch
from jmamba.layers.recurrence import INSIDE, RecurrenceOutput
from jmamba.layers.rotary import rotate_pairs
from jmamba.layers.softmax import attend_values
from jmamba.types import AttentionCache, KeyValues, SeenTokens, SoftmaxAttention


class SelfAttention(OpenMixer):
    """The mixer of one block: projections, rotations, causal softmax attention.

        q, k, v = W_q x, W_k x, W_v x, heads apart;  q, k rotated by their places
        out = W_o softmax(scale q k^T) v

    Args:
      sizes: of the mixer.
      precision: dtypes.
      rngs: source of the initial weights.

    References:
      Vaswani et al., "Attention is all you need", arXiv 1706.03762, section 3.2;
      Ainslie et al., "GQA", arXiv 2305.13245.
    """

    recurs_as, cache_kind = SoftmaxAttention, AttentionCache
    places: ClassVar[tuple[Place, ...]] = (
        Place("queries", "blhn", "queries, rotated and scaled", (), ("attn.hook_q",)),
        Place("keys", "blgn", "keys, rotated", (), ("attn.hook_k",)),
        Place("values", "blgp", "values", (), ("attn.hook_v",)),
        INSIDE[-1]._replace(says="what attention puts out", mamba_lens=()),
    )
    letters: ClassVar[Mapping[str, str]] = {
        **{f"{name}_proj.kernel": "md" for name in "qkv"},
        **{f"{name}_proj.bias": "d" for name in "qkv"},
        **{"o_proj.kernel": "dm", "o_proj.bias": "m"},
    }

    def __init__(self, sizes: AttentionSizes, *, precision: Precision, rngs: nnx.Rngs):
        m, width = sizes.d_model, sizes.query_width
        parts: dict[str, Any] = {"precision": precision, "rngs": rngs}
        parts["use_bias"] = sizes.use_attention_bias
        queries, keys = sizes.num_query_heads * width, sizes.num_kv_heads * width
        self.q_proj = make_linear(m, queries, **parts)
        self.k_proj = make_linear(m, keys, **parts)
        self.v_proj = make_linear(m, keys, **parts)
        self.o_proj = make_linear(queries, m, **parts)
        self.sizes = sizes

    def project(  # pyright: ignore[reportIncompatibleMethodOverride] (texts only)
        self,
        x: Float[Array, "b l m"],
        *,
        kept: SeenTokens | None = None,
        lengths: Int[Array, "b"] | None = None,
        segment_ids: Int[Array, "b l"] | None = None,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> Projection:
        """Make queries, keys and values of all heads from the normalised input.

        Args:
          x: normalised input.
          kept: how many tokens there were before; None for none.
          lengths: tokens per row, the rest being padding on the right, which no token
            of the text sees.
          segment_ids: packed sequences, which do not see each other.
          frozen: what derivatives take for constants.
          at: who edits and reads what passes.
        """
        return self.make_heads(
            *self.project_in(x, frozen), kept, lengths=lengths,
            segment_ids=segment_ids, frozen=frozen, at=at,
        )  # fmt: skip

    def project_in(
        self, x: Float[Array, "b l m"], frozen: Frozen
    ) -> tuple[Float[Array, "b l _q"], Float[Array, "b l _k"], Float[Array, "b l _v"]]:
        """Return what the maps make of the normalised input: queries, keys, values."""
        q, k, v = (
            call_linear(layer, x, "in_proj", frozen)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        return q, k, v

    def make_heads(
        self,
        q: Float[Array, "b l _q"],
        k: Float[Array, "b l _k"],
        v: Float[Array, "b l _k"],
        kept: SeenTokens | None,
        *,
        lengths: Int[Array, "b"] | None = None,
        segment_ids: Int[Array, "b l"] | None = None,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> Projection:
        """Cut queries, keys and values into heads, rotate and scale them.

        Args:
          q, k, v: of all heads.
          kept, lengths, segment_ids, frozen, at: as in `project`.
        """
        sizes, (batch, length, _) = self.sizes, q.shape
        q, k, v = (a.reshape(batch, length, -1, sizes.query_width) for a in (q, k, v))
        if kept is None:
            nothing = jnp.zeros((batch,), jnp.int32)
            kept = SeenTokens(nothing, nothing)
        places = kept.length[:, None] + jnp.arange(length, dtype=jnp.int32)[None]
        begins = _begins(places, kept.first, segment_ids)
        if sizes.rope_width:
            rope: dict[str, Any] = {
                "width": sizes.rope_width,
                "theta": sizes.rope_theta,
            }
            q, k = rotate_pairs(q, places, **rope), rotate_pairs(k, places, **rope)
        scale = sizes.attention_scale or sizes.query_width**-0.5
        q = at("queries", q * jnp.asarray(scale, q.dtype))
        k, v = at("keys", k), at("values", v)
        if frozen.selection:
            q, k = stop_gradient((q, k))
        added = jnp.full((batch,), length) if lengths is None else lengths
        length = kept.length + added.astype(jnp.int32)
        first = kept.first
        if segment_ids is not None:  # the next token goes on with the last segment
            last = jnp.maximum(added - 1, 0)[:, None]
            ends = jnp.take_along_axis(begins, last, axis=1)[:, 0]
            first = jnp.where(added > 0, ends, first)
        attention = SoftmaxAttention(q, k, v, places, begins)
        return Projection(attention, kept._replace(length=length, first=first))

    def recur(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        recurrence: SoftmaxAttention,
        *,
        state: KeyValues | None = None,
        segment_ids: Any = None,
    ) -> RecurrenceOutput:
        """Return what attention puts out, and the keys and values with the new ones."""
        found: Any = attend_values(recurrence, state)
        return RecurrenceOutput(*found)

    def run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        recurrence: SoftmaxAttention,
        *,
        state: KeyValues | None = None,
        segment_ids: Any = None,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> tuple[Float[Array, "b l d"], KeyValues]:
        """Return what the output projection reads, and what the next token sees.

        Args:
          recurrence: what `project` made, or something else in its place.
          state: keys and values of earlier tokens, with room for the new ones.
          segment_ids: told by the recurrence already.
          frozen: what derivatives take for constants.
          at: who edits and reads what passes.
        """
        y, state = attend_values(recurrence, state)
        return at("y", y), state

    def gate(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        y: Float[Array, "b l d"],
        recurrence: SoftmaxAttention,
        *,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> Float[Array, "b l d"]:
        """Return y: there is no gate."""
        return y

    def project_out(
        self, y: Float[Array, "b l d"], *, frozen: Frozen = NOTHING
    ) -> Float[Array, "b l m"]:
        """Return W_o y."""
        return call_linear(self.o_proj, y, "out_proj", frozen)

    def empty_cache(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, batch: int, dtype: Any
    ) -> AttentionCache:
        """Return a cache without tokens, and without room for any."""
        shape = (batch, 0, self.sizes.num_kv_heads, self.sizes.query_width)
        count = jnp.zeros((batch,), jnp.int32)
        keys = jnp.zeros(shape, dtype)
        return AttentionCache(SeenTokens(count, count), KeyValues(keys, keys))


def _begins(places, first, segment_ids) -> Int[Array, "b l"]:
    """Return the first place of each token's segment, the first one's being given."""
    begins = jnp.broadcast_to(first[:, None], places.shape)
    if segment_ids is None:
        return begins
    is_new = segment_ids[:, 1:] != segment_ids[:, :-1]
    own = jnp.where(is_new, places[:, 1:], begins[:, 1:])
    begins = jnp.concatenate([begins[:, :1], own], axis=1)
    return jax.lax.cummax(begins, axis=1)
