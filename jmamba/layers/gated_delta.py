"""The gated delta net as a mixer."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.layers import freezing
from jmamba.layers.convolution import PLACES_OF_CONVOLUTION, Convolver
from jmamba.layers.delta_sizes import DeltaSizes
from jmamba.layers.freezing import NOTHING, Frozen, call_linear, stop_gradient
from jmamba.layers.gated import run_heads
from jmamba.layers.linear import make_linear
from jmamba.layers.mamba import HALVES
from jmamba.layers.mixer import GATE, OpenMixer, Projection
from jmamba.layers.norm import Precision, RMSNorm
from jmamba.layers.places import PASS_BY, Place, Watch
from jmamba.layers.recurrence import INSIDE, RecurrenceOutput
from jmamba.layers.selection import draw_dt_bias, without_padding
from jmamba.ops.sharding import hold
from jmamba.recurrences import gated_delta_net
from jmamba.types import GatedRecurrence, LayerCache
from jmamba_kernels import accumulation_dtype

MAPS = tuple(f"{of}_proj" for of in ("queries", "keys", "values", "z", "dt", "beta"))
"""Maps of the input, in the order of what they make."""


class DeltaParts(NamedTuple):
    """What a gated delta net projects its input to, heads side by side."""

    qkv: Float[Array, "b l _"]
    z: Float[Array, "b l d"]
    dt: Float[Array, "b l h"]
    beta: Float[Array, "b l h"]


class GatedDeltaNet(OpenMixer):
    """The mixer of one block: projections, convolution, the delta rule, a gated norm.

        q, k, v = split(silu(conv(W_qkv x)));  k = unit(k),  q = unit(q) / sqrt(n)
        beta = limit sigmoid(W_b x);  log a = -exp(A_log) softplus(W_a x + dt_bias)
        S[t] = a (I - beta k k^T) S[t-1] + beta k v^T;  y[t] = S[t]^T q
        out = W_o (norm(y) silu(W_g x)), with an RMS of each head

    Heads of values share the queries and keys of their group, its neighbours.

    Args:
      sizes: of the mixer.
      precision: dtypes.
      rngs: source of the initial weights.

    References:
      Yang, Kautz & Hatamizadeh, "Gated Delta Networks", arXiv 2412.06464, section 3;
      the doubled beta is Grazzi et al., arXiv 2411.12537.
    """

    recurs_as = GatedRecurrence
    places: ClassVar[tuple[Place, ...]] = (
        HALVES[0]._replace(says="what the convolution reads: of q, k and v"),
        HALVES[1],
        *PLACES_OF_CONVOLUTION,
        Place("queries", "blhn", "queries, before they are divided by their length"),
        Place("keys", "blhn", "keys, before they are divided by their length"),
        Place("values", "blhp", "values"),
        Place("beta", "blh", "how much is written"),
        Place("log_decay", "blh", "logarithm of what is kept of a state"),
        INSIDE[-1]._replace(says="what the recurrence puts out"),
        GATE,
    )
    letters: ClassVar[Mapping[str, str]] = {
        **{
            f"{name}.kernel": letters
            for name, letters in zip(MAPS, "m_ m_ md md mh mh".split(), strict=True)
        },
        **{"conv1d.weight": "_k", "A_log": "h", "dt_bias": "h", "norm.scale": "_"},
        "out_proj.kernel": "dm",
    }

    def __init__(self, sizes: DeltaSizes, *, precision: Precision, rngs: nnx.Rngs):
        parts: dict[str, Any] = {"precision": precision, "rngs": rngs}
        heads, wide = sizes.num_value_heads, precision.sensitive
        self.make_maps(sizes, **parts)
        self.conv1d = Convolver(sizes.d_conv_inner, sizes.d_conv, False, **parts)
        self.dt_bias = nnx.Param(draw_dt_bias(sizes, heads, rngs).astype(wide))
        A = jax.random.uniform(rngs.params(), (heads,), wide, 1e-3, 16)
        self.A_log = nnx.Param(jnp.log(A))
        self.norm = RMSNorm(
            sizes.value_width, eps=sizes.delta_norm_eps, precision=precision
        )
        self.out_proj = make_linear(
            sizes.d_inner, sizes.d_model, use_bias=False, **parts
        )
        self.sizes, self.window = sizes, sizes.d_conv

    def make_maps(self, sizes: DeltaSizes, **parts: Any) -> None:
        """Make the maps of the input.

        Args:
          sizes: of the mixer.
          **parts: `precision` and `rngs`.
        """
        heads, d, key = sizes.num_value_heads, sizes.d_inner, sizes.d_key
        for name, size in zip(MAPS, (key, key, d, d, heads, heads), strict=True):
            made = make_linear(sizes.d_model, size, use_bias=False, **parts)
            setattr(self, name, made)

    def project_in(self, x: Float[Array, "b l m"], frozen: Frozen) -> DeltaParts:
        """Return what the maps make of the normalised input."""
        made = (call_linear(getattr(self, name), x, "in_proj", frozen) for name in MAPS)
        q, k, v, z, dt, beta = made
        return DeltaParts(jnp.concatenate([q, k, v], axis=-1), z, dt, beta)

    def project(  # pyright: ignore[reportIncompatibleMethodOverride] (texts only)
        self,
        x: Float[Array, "b l m"],
        *,
        kept: Float[Array, "b c _"] | None = None,
        lengths: Int[Array, "b"] | None = None,
        segment_ids: Int[Array, "b l"] | None = None,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> Projection:
        """Make the recurrence of all heads from the normalised input.

        Args:
          x: normalised input.
          kept: the k-1 convolution inputs before the first token.
          lengths: tokens per row, the rest being padding on the right, which writes
            nothing and lets nothing decay.
          segment_ids: packed sequences, see `causal_conv1d`.
          frozen: what derivatives take for constants.
          at: who edits and reads what passes.
        """
        qkv, z, dt, beta = self.project_in(x, frozen)
        qkv, z = at("x", hold(qkv, "bl_")), at("z", hold(z, "bld"))
        convolved, last = self.conv1d.activate(
            qkv,
            kept=kept,
            lengths=lengths,
            segment_ids=segment_ids,
            frozen=frozen,
            at=at,
        )
        q, k, values = self._heads(convolved, at)
        dt_bias = self.dt_bias[...][None, None]
        wide = dt_bias.dtype
        delta = jax.nn.softplus(dt.astype(wide) + dt_bias)
        limit = jnp.asarray(self.sizes.beta_limit, wide)
        beta = at("beta", limit * jax.nn.sigmoid(beta.astype(wide)))
        log_decay = at("log_decay", -jnp.exp(self.A_log[...])[None, None] * delta)
        if lengths is not None:
            beta, log_decay = (without_padding(v, lengths) for v in (beta, log_decay))
        if frozen.selection:
            q, k, beta, log_decay = stop_gradient((q, k, beta, log_decay))
        q, k = q.astype(wide), k.astype(wide)
        made = gated_delta_net(q, k, values, beta, log_decay)
        convolution = self.conv1d.factors(qkv, slice(2 * self.sizes.d_key, None))
        return Projection(made._replace(z=z), last, (convolution,))

    def _heads(self, convolved, at: Watch):
        """Return queries and keys of each value head, and values."""
        sizes, (batch, length, _) = self.sizes, convolved.shape
        q, k, v = jnp.split(convolved, [sizes.d_key, 2 * sizes.d_key], axis=-1)
        shares = sizes.num_value_heads // sizes.num_key_heads
        q, k = (
            jnp.repeat(a.reshape(batch, length, -1, sizes.key_width), shares, axis=2)
            for a in (q, k)
        )
        v = v.reshape(batch, length, -1, sizes.value_width)
        return at("queries", q), at("keys", k), at("values", v)

    def recur(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        recurrence: GatedRecurrence,
        *,
        state: Float[Array, "b d n"] | None = None,
        segment_ids: Int[Array, "b l"] | None = None,
    ) -> RecurrenceOutput:
        """Return what a recurrence puts out, and its state; see `run_gated`."""
        return run_heads(recurrence, state, segment_ids)

    def run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        recurrence: GatedRecurrence,
        *,
        state: Float[Array, "b d n"] | None = None,
        segment_ids: Int[Array, "b l"] | None = None,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> tuple[Float[Array, "b l d"], Float[Array, "b d n"]]:
        """Return what the output projection reads, and a state; see `Mixer.run`."""
        y, last = self.recur(recurrence, state=state, segment_ids=segment_ids)
        return self.gate(at("y", y), recurrence, frozen=frozen, at=at), last

    def gate(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        y: Float[Array, "b l d"],
        recurrence: GatedRecurrence,
        *,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> Float[Array, "b l d"]:
        """Return norm(y) silu(z), in float32 or better inside."""
        assert recurrence.z is not None
        dtype, heads = accumulation_dtype(y.dtype), self.sizes.num_value_heads
        normed = self.norm(y.reshape(*y.shape[:-1], heads, -1), frozen=frozen.norm)
        normed = normed.reshape(y.shape).astype(dtype)
        gated = freezing.gate(normed, recurrence.z.astype(dtype), frozen, at=at)
        return gated.astype(y.dtype)

    def project_out(
        self, y: Float[Array, "b l d"], *, frozen: Frozen = NOTHING
    ) -> Float[Array, "b l m"]:
        """Return W_o y."""
        return call_linear(self.out_proj, y, "out_proj", frozen)

    def empty_cache(self, batch: int, dtype: Any) -> LayerCache:
        """Return zeros for the convolution's inputs and the state."""
        sizes = self.sizes
        window = jnp.zeros((batch, sizes.d_conv_inner, sizes.d_conv - 1), dtype)
        state = (batch, sizes.d_inner, sizes.key_width)
        return LayerCache(window, jnp.zeros(state, accumulation_dtype(dtype)))
