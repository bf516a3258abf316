"""The mixer of Mamba-2."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.layers import freezing
from jmamba.layers.convolution import PLACES_OF_CONVOLUTION, Convolver
from jmamba.layers.freezing import NOTHING, Frozen, call_linear, stop_gradient
from jmamba.layers.mamba import AROUND, HALVES, make_in_proj, make_out_proj
from jmamba.layers.mixer import GATE, OpenMixer, Projection
from jmamba.layers.norm import Precision, RMSNorm
from jmamba.layers.places import PASS_BY, Place, Watch
from jmamba.layers.recurrence import INSIDE, PARAMETERS
from jmamba.layers.selection import draw_dt_bias, without_padding
from jmamba.layers.sizes import HeadSizes
from jmamba.ops.sharding import hold
from jmamba.types import LayerCache, Recurrence
from jmamba_kernels import accumulation_dtype


class Mamba2Mixer(OpenMixer):
    """The mixer of one block: projections, convolution, heads that recur, a gated norm.

        z, xBC, dt = split(W_in x);  u, B, C = split(silu(conv(xBC)))
        delta = clip(softplus(dt + dt_bias), dt_limit);  A = -exp(A_log)
        out = W_out norm(ssd(u, delta, A, B, C, D) silu(z))

    A and delta are one number for each head, B and C are shared by a group of heads,
    and each group of channels has its own RMS in the norm.

    Args:
      sizes: of the mixer.
      precision: dtypes.
      rngs: source of the initial weights.

    References:
      Dao & Gu, "Transformers are SSMs", arXiv 2405.21060, section 7.1 and figure 6.
    """

    places: ClassVar[tuple[Place, ...]] = (
        HALVES[0]._replace(says="what the convolution reads: of u, B and C"),
        HALVES[1],
        Place("raw_delta", "blh", "dt + bias, in front of softplus"),
        *PLACES_OF_CONVOLUTION,
        *PARAMETERS[:-1],
        *INSIDE,
        GATE,
    )

    def __init__(self, sizes: HeadSizes, *, precision: Precision, rngs: nnx.Rngs):
        d, heads, wide = sizes.d_inner, sizes.num_heads, precision.sensitive
        parts: dict[str, Any] = {"precision": precision, "rngs": rngs}
        rows = d + sizes.d_conv_inner + heads
        self.in_proj = make_in_proj(sizes, size_out=rows, **parts)
        self.conv1d = Convolver(
            sizes.d_conv_inner, sizes.d_conv, sizes.use_conv_bias, **parts
        )
        self.dt_bias = nnx.Param(draw_dt_bias(sizes, heads, rngs).astype(wide))
        A = jax.random.uniform(rngs.params(), (heads,), wide, 1, 16)
        self.A_log = nnx.Param(jnp.log(A))
        self.D = nnx.Param(jnp.ones((d if sizes.skip_per_channel else heads,), wide))
        norm = partial(
            RMSNorm, eps=sizes.norm_eps, groups=sizes.num_groups, precision=precision
        )
        self.norm = norm(d) if sizes.is_normed else None
        self.out_proj = make_out_proj(sizes, **parts)
        self.sizes, self.window = sizes, sizes.d_conv

    @property
    def letters(self) -> Mapping[str, str]:
        """Letters of the parameters; those of the convolution are x, B and C."""
        heads = {"dt_bias": "h", "A_log": "h", "norm.scale": "d"}
        heads["D"] = "d" if self.sizes.skip_per_channel else "h"
        return {**AROUND, **heads, "conv1d.weight": "_k", "conv1d.bias": "_"}

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
          lengths: tokens per row, the rest being padding on the right: padding gets
            delta = 0, also where that is below the limit, and leaves the state alone.
          segment_ids: packed sequences, see `causal_conv1d`.
          frozen: what derivatives take for constants.
          at: who edits and reads what passes.
        """
        sizes = self.sizes
        d, n, g = sizes.d_inner, sizes.d_state, sizes.num_groups
        projected = hold(self.project_in(x, frozen), "bld")
        ends = [d, d + sizes.d_conv_inner]
        z, xBC, dt = jnp.split(projected, ends, axis=-1)
        xBC, z = at("x", xBC), at("z", hold(z, "bld"))
        dt_bias = self.dt_bias[...][None, None]
        raw_delta = at("raw_delta", dt.astype(dt_bias.dtype) + dt_bias)
        convolved, last = self.conv1d.activate(
            xBC,
            kept=kept,
            lengths=lengths,
            segment_ids=segment_ids,
            frozen=frozen,
            at=at,
        )
        u, B, C = jnp.split(convolved, [d, d + g * n], axis=-1)
        u = at("u", hold(u, "bld"))
        delta = jnp.clip(jax.nn.softplus(raw_delta), *sizes.dt_limit)
        if lengths is not None:
            delta = without_padding(delta, lengths)
        B, C = (v.reshape(*v.shape[:2], g, n) for v in (B, C))
        delta, B, C = at("delta", delta), at("B", B), at("C", C)
        if frozen.selection:
            delta, B, C = stop_gradient((delta, B, C))
        A, D = -jnp.exp(self.A_log[...])[:, None], self.D[...]
        D = jnp.repeat(D, d // D.shape[0])
        convolution = self.conv1d.factors(xBC, slice(d))
        return Projection(Recurrence(u, delta, A, B, C, D, z), last, (convolution,))

    def project_in(
        self, x: Float[Array, "b l m"], frozen: Frozen
    ) -> Float[Array, "b l _"]:
        """Return z, x, B, C and dt, one behind the other."""
        return call_linear(self.in_proj, x, "in_proj", frozen)

    def gate(
        self,
        y: Float[Array, "b l d"],
        recurrence: Recurrence,
        *,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> Float[Array, "b l d"]:
        """Return norm(y silu(z)), or norm(y) silu(z), in float32 or better inside."""
        assert recurrence.z is not None
        dtype = accumulation_dtype(y.dtype)
        y, z, compute = y.astype(dtype), recurrence.z.astype(dtype), y.dtype
        if self.norm is not None and self.sizes.norm_before_gate:
            y = self.norm(y, frozen=frozen.norm).astype(dtype)
        y = freezing.gate(y, z, frozen, at=at)
        if self.norm is not None and not self.sizes.norm_before_gate:
            y = self.norm(y, frozen=frozen.norm)
        return y.astype(compute)

    def project_out(
        self, y: Float[Array, "b l d"], *, frozen: Frozen = NOTHING
    ) -> Float[Array, "b l m"]:
        """Return W_out y."""
        return call_linear(self.out_proj, y, "out_proj", frozen)

    def empty_cache(self, batch: int, dtype: Any) -> LayerCache:
        """Return zeros for the convolution's inputs and the state."""
        sizes = self.sizes
        window = jnp.zeros((batch, sizes.d_conv_inner, sizes.d_conv - 1), dtype)
        state = (batch, sizes.d_inner, sizes.d_state)
        return LayerCache(window, jnp.zeros(state, accumulation_dtype(dtype)))
