"""Where selective parameters are made."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.layers.convolution import PLACES_OF_CONVOLUTION, Convolver
from jmamba.layers.freezing import NOTHING, Frozen, stop_gradient
from jmamba.layers.linear import make_linear
from jmamba.layers.mixer import Projection
from jmamba.layers.norm import Precision, rms_norm
from jmamba.layers.places import PASS_BY, Place, Watch
from jmamba.layers.recurrence import PARAMETERS
from jmamba.layers.sizes import MixerSizes
from jmamba.types import Recurrence

MakeGates = Callable[..., Callable[[], tuple[Array, Array]] | None]
"""Makes S_B and S_C of a mixer, from (sizes, precision=, rngs=); None for free ones."""

_U, _DELTA, _B, _C, _ = PARAMETERS
SELECTED = (
    *PLACES_OF_CONVOLUTION,
    _U._replace(
        says="values: what selection and recurrence read",
        transformer_lens=("mixer.x_proj.hook_in",),
    ),
    Place(
        "dt", "blr", "what W_dt reads", ("hook_delta_1",), ("mixer.dt_proj.hook_in",)
    ),
    Place(
        "raw_delta",
        "bld",
        "W_dt dt + bias, in front of softplus",
        ("hook_delta_2",),
        ("mixer.dt_proj.hook_out", "mixer.hook_ssm_dt"),
    ),
    _DELTA,
    _B,
    _C,
)
"""Where values pass in a selection."""


class GateMatrices(NamedTuple):
    """What a selection makes its parameters with, as linear maps of u.

    B[j] = S_B u[j],  C[i] = S_C u[i],  delta[j] = softplus(S_delta u[j] + bias)
    """

    S_B: Float[Array, "n d"]
    S_C: Float[Array, "n d"]
    S_delta: Float[Array, "d d"]
    A: Float[Array, "d n"]
    bias: Float[Array, "d"]


class Selection(nnx.Module):
    """What one direction of a mixer has between its projections.

    A `MambaMixer` has one, a `BidirectionalMixer` two. `select` is the only place that
    makes selective parameters.

    Args:
      sizes: of the mixer.
      make_gates: makes the rows S_B and S_C of W_x, which are then parameters of their
        own and x_proj has rows for dt alone; None for free rows.
      precision: dtypes.
      rngs: source of the initial weights.
    """

    letters: ClassVar[Mapping[str, str]] = {
        "x_proj.kernel": "dr",  # dt, B and C
        "dt_proj.kernel": "rd",
        "dt_bias": "d",
        "A_log": "dn",
        "D": "d",
    }

    def __init__(
        self,
        sizes: MixerSizes,
        *,
        make_gates: MakeGates | None = None,
        precision: Precision,
        rngs: nnx.Rngs,
    ):
        d, n, r = sizes.d_inner, sizes.d_state, sizes.dt_rank
        self.conv1d = Convolver(
            d, sizes.d_conv, sizes.use_conv_bias, precision=precision, rngs=rngs
        )
        self.gates = make_gates and make_gates(sizes, precision=precision, rngs=rngs)
        rows = r if self.gates is not None else r + 2 * n
        self.x_proj = make_linear(d, rows, precision=precision, rngs=rngs)
        self.dt_proj = make_linear(r, d, precision=precision, rngs=rngs)
        dt_bias = draw_dt_bias(sizes, d, rngs)
        self.dt_bias = nnx.Param(dt_bias.astype(precision.sensitive))
        A_log = jnp.log(jnp.arange(1, n + 1, dtype=precision.sensitive))
        self.A_log = nnx.Param(jnp.tile(A_log, (d, 1)))
        self.D = nnx.Param(jnp.ones((d,), precision.sensitive))
        self.sizes = sizes

    def W_x(self) -> Float[Array, "d _"]:
        """Return the projection of u to dt, B and C, (d, r + 2 n)."""
        kernel = self.x_proj.kernel[...]
        if self.gates is None:
            return kernel
        S_B, S_C = (S.T.astype(kernel.dtype) for S in self.gates())
        return jnp.concatenate([kernel, S_B, S_C], axis=1)

    def gate_matrices(self) -> tuple[GateMatrices, ...]:
        """Return the matrices of this selection; S_delta is dense, d^2 numbers.

        In Falcon-Mamba B, C and delta's argument are then divided by a norm.
        """
        r, n = self.sizes.dt_rank, self.sizes.d_state
        dtype = self.A_log[...].dtype
        W_x = self.W_x().astype(dtype)  # d r+2n
        W_dt = self.dt_proj.kernel[...].astype(dtype)  # r d
        A = -jnp.exp(self.A_log[...])
        S_delta = jnp.einsum("er,rd->de", W_x[:, :r], W_dt, precision="highest")
        S_B, S_C = W_x[:, r : r + n].T, W_x[:, r + n :].T
        return (GateMatrices(S_B, S_C, S_delta, A, self.dt_bias[...]),)

    def activate(
        self,
        x: Float[Array, "b l d"],
        *,
        conv_state: Float[Array, "b d _"] | None = None,
        lengths: Int[Array, "b"] | None = None,
        segment_ids: Int[Array, "b l"] | None = None,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> tuple[Float[Array, "b l d"], Float[Array, "b d _"]]:
        """Return u = silu(conv(x)) and the last inputs of the convolution.

        Args:
          x, conv_state, lengths, segment_ids, frozen, at: as in `select`.
        """
        u, last = self.conv1d.activate(
            x,
            kept=conv_state,
            lengths=lengths,
            segment_ids=segment_ids,
            frozen=frozen,
            at=at,
        )
        return at("u", u), last

    def select(
        self,
        x: Float[Array, "b l d"],
        z: Float[Array, "b l d"],
        *,
        conv_state: Float[Array, "b d _"] | None = None,
        lengths: Int[Array, "b"] | None = None,
        segment_ids: Int[Array, "b l"] | None = None,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> Projection:
        """Make the selective parameters from the halves of the projected input.

            u = silu(conv(x));  dt, B, C = split(W_x u)
            delta = softplus(W_dt dt + dt_bias);  A = -exp(A_log)

        Falcon-Mamba divides dt, B and C by their RMS before W_dt.

        Args:
          x: what the convolution reads.
          z: the gate's argument.
          conv_state: the k-1 convolution inputs before the first token.
          lengths: tokens per row, the rest being padding on the right: padding gets
            delta = 0, which leaves the state as it is.
          segment_ids: packed sequences, see `causal_conv1d`.
          frozen: what derivatives take for constants.
          at: who edits and reads what passes.
        """
        u, last = self.activate(
            x,
            conv_state=conv_state,
            lengths=lengths,
            segment_ids=segment_ids,
            frozen=frozen,
            at=at,
        )
        recurrence = self.parametrise(u, z, lengths=lengths, frozen=frozen, at=at)
        return Projection(recurrence, last, (self.conv1d.factors(x),))

    def normalise(
        self,
        dt: Float[Array, "b l r"],
        B: Float[Array, "b l n"],
        C: Float[Array, "b l n"],
    ) -> tuple[Float[Array, "b l r"], Float[Array, "b l n"], Float[Array, "b l n"]]:
        """Return dt, B and C, in Falcon-Mamba over their RMS."""
        eps = self.sizes.mixer_rms_eps
        if eps is None:
            return dt, B, C
        dt, B, C = (rms_norm(v, eps).astype(v.dtype) for v in (dt, B, C))
        return dt, B, C

    def parametrise(
        self,
        u: Float[Array, "b l d"],
        z: Float[Array, "b l d"],
        *,
        lengths: Int[Array, "b"] | None = None,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> Recurrence:
        """Make the selective parameters of what the convolution put out.

        Args:
          u: what the recurrence is to read.
          z: the gate's argument.
          lengths, frozen, at: as in `select`.
        """
        sizes = self.sizes
        r, n = sizes.dt_rank, sizes.d_state
        if self.gates is None:
            projected = self.x_proj(u)
        else:
            projected = jnp.matmul(u, self.W_x().astype(u.dtype))
        dt, B, C = jnp.split(projected, [r, r + n], axis=-1)
        dt, B, C = self.normalise(dt, B, C)
        dt_bias = self.dt_bias[...][None, None]
        raw_delta = self.dt_proj(at("dt", dt)).astype(dt_bias.dtype) + dt_bias
        delta = jax.nn.softplus(at("raw_delta", raw_delta))
        if lengths is not None:
            delta = without_padding(delta, lengths)
        # one group: all channels share B and C
        delta, B = at("delta", delta), at("B", B[:, :, None])
        C = at("C", C[:, :, None])
        if frozen.selection:
            delta, B, C = stop_gradient((delta, B, C))
        A = -jnp.exp(self.A_log[...])
        return Recurrence(u, delta, A, B, C, self.D[...], z)


def draw_dt_bias(sizes: Any, count: int, rngs: nnx.Rngs) -> Float[Array, "d"]:
    """Draw b with softplus(b) log-uniform in [dt_min, dt_max].

    Args:
      sizes: of the mixer.
      count: how many.
      rngs: source of randomness.

    References:
      Gu & Dao, "Mamba", arXiv 2312.00752, section 3.6.
    """
    low, high = jnp.log(sizes.dt_min), jnp.log(sizes.dt_max)
    dt = jnp.exp(jax.random.uniform(rngs.params(), (count,)) * (high - low) + low)
    dt = jnp.maximum(dt, sizes.dt_init_floor)
    return dt + jnp.log(-jnp.expm1(-dt))


def without_padding(
    delta: Float[Array, "b l h"], lengths: Int[Array, "b"]
) -> Float[Array, "b l h"]:
    """Return step sizes with 0 where padding is, which leaves a state as it is."""
    places = jnp.arange(delta.shape[1], dtype=lengths.dtype)
    return jnp.where((places[None, :] < lengths[:, None])[:, :, None], delta, 0)
