"""Where selective parameters are made, and the recurrence that they steer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array, Float, Int

from jmamba.layers import freezing
from jmamba.layers.freezing import NOTHING, Frozen, stop_gradient
from jmamba.layers.gamma_rule import gamma_rule
from jmamba.layers.norm import Precision, rms_norm
from jmamba.models.mamba.config import MambaConfig
from jmamba.models.vim.config import VimConfig
from jmamba.ops import causal_conv1d, selective_scan, selective_state_update
from jmamba.ops.causal_conv1d import count_segments
from jmamba.refinements.gates import make_gates
from jmamba.types import SSMInputs

MixerConfig = MambaConfig | VimConfig
"""What a mixer reads its sizes from."""

Sort = Callable[[Float[Array, "b l d"]], Float[Array, "b l d"]]
"""Puts tokens in another order."""

torch_uniform = initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the initialisation of the released models."""


def make_linear(
    size_in: int,
    size_out: int,
    *,
    use_bias: bool = False,
    kernel_init=torch_uniform,
    precision: Precision,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """Return a linear map in a model's precision."""
    return nnx.Linear(
        size_in,
        size_out,
        use_bias=use_bias,
        kernel_init=kernel_init,
        dtype=precision.compute,
        param_dtype=precision.param,
        rngs=rngs,
    )


class Conv1D(nnx.Module):
    """Parameters of the causal depthwise convolution."""

    def __init__(self, config: MixerConfig, *, precision: Precision, rngs: nnx.Rngs):
        d, k = config.d_inner, config.d_conv
        bound = k**-0.5
        uniform = jax.random.uniform
        weight = uniform(rngs.params(), (d, k), precision.param, -bound, bound)
        bias = uniform(rngs.params(), (d,), precision.param, -bound, bound)
        self.weight = nnx.Param(weight)
        self.bias = nnx.Param(bias) if config.use_conv_bias else None


class Selection(nnx.Module):
    """What one direction of a mixer has between its projections.

    A `Mixer` has one, a `BidirectionalMixer` two. `select` is the only place that makes
    selective parameters. If the configuration constrains the signs of S_C^T S_B, W_x
    has rows for dt alone, and `gates` make the others.
    """

    def __init__(self, config: MixerConfig, *, precision: Precision, rngs: nnx.Rngs):
        d, n, r = config.d_inner, config.d_state, config.dt_rank
        self.conv1d = Conv1D(config, precision=precision, rngs=rngs)
        self.gates = make_gates(config, precision=precision, rngs=rngs)
        rows = r if self.gates is not None else r + 2 * n
        self.x_proj = make_linear(d, rows, precision=precision, rngs=rngs)
        self.dt_proj = make_linear(r, d, precision=precision, rngs=rngs)
        self.dt_bias = nnx.Param(_dt_bias(config, rngs).astype(precision.sensitive))
        A_log = jnp.log(jnp.arange(1, n + 1, dtype=precision.sensitive))
        self.A_log = nnx.Param(jnp.tile(A_log, (d, 1)))
        self.D = nnx.Param(jnp.ones((d,), precision.sensitive))
        self.config = config

    def convolve(
        self,
        x: Float[Array, "b l d"],
        *,
        activation: str | None = None,
        gamma: float = 0.0,
        initial_state: Float[Array, "b d _"] | None = None,
        **options,
    ):
        """Run the convolution; the rest of the options are those of `causal_conv1d`.

        Args:
          x: what it reads.
          activation: None or "silu"; None if there is a gamma.
          gamma: of `gamma_rule`.
          initial_state: the inputs before the first token.
          **options: of `causal_conv1d`.
        """
        weight, bias = self.conv1d.weight[...], self.conv1d.bias
        operands = x, weight, None if bias is None else bias[...], initial_state

        def run(operands, activation=None):
            x, weight, bias, state = operands
            return causal_conv1d(
                x, weight, bias, activation=activation, initial_state=state, **options
            )

        out = run(operands, activation)
        if gamma == 0:
            return out
        assert activation is None
        magnitudes = run(jax.tree.map(jnp.abs, operands))
        return out._replace(y=gamma_rule(out.y, magnitudes.y, gamma))

    def W_x(self) -> Float[Array, "d _"]:
        """Return the projection of u to dt, B and C, (d, r + 2 n)."""
        kernel = self.x_proj.kernel[...]
        if self.gates is None:
            return kernel
        S_B, S_C = (S.T.astype(kernel.dtype) for S in self.gates())
        return jnp.concatenate([kernel, S_B, S_C], axis=1)

    def scores(
        self, u: Float[Array, "b l d"], K: Float[Array, "d"]
    ) -> Float[Array, "b l"]:
        """Return K . (S_delta u[l]) of each token, in the dtype of the step sizes."""
        wide = self.dt_bias[...].dtype
        dt = self.W_x()[:, : self.config.dt_rank].astype(wide)
        weights = dt @ (self.dt_proj.kernel[...].astype(wide) @ K.astype(wide))
        return jnp.einsum("bld,d->bl", u.astype(wide), weights, precision="highest")

    def activate(
        self,
        x: Float[Array, "b l d"],
        *,
        conv_state: Float[Array, "b d _"] | None = None,
        lengths: Int[Array, "b"] | None = None,
        segment_ids: Int[Array, "b l"] | None = None,
        frozen: Frozen = NOTHING,
    ) -> tuple[Float[Array, "b l d"], Float[Array, "b d _"]]:
        """Return u = silu(conv(x)) and the last inputs of the convolution.

        Args:
          x, conv_state, lengths, segment_ids, frozen: as in `select`.
        """
        options: dict[str, Any] = {
            "initial_state": conv_state,
            "segment_ids": segment_ids,
        }
        gamma = frozen.gammas.conv
        if frozen.activation or gamma:
            a, last = self.convolve(x, gamma=gamma, **options)
            u = freezing.silu(a, frozen)
        else:
            u, last = self.convolve(x, activation="silu", **options)
        if lengths is not None:
            window = self.config.d_conv
            last = _last_inputs(x, conv_state, lengths, segment_ids, window)
        return u, last

    def select(
        self,
        x: Float[Array, "b l d"],
        z: Float[Array, "b l d"],
        *,
        conv_state: Float[Array, "b d _"] | None = None,
        lengths: Int[Array, "b"] | None = None,
        segment_ids: Int[Array, "b l"] | None = None,
        frozen: Frozen = NOTHING,
    ) -> SSMInputs:
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
        """
        u, last = self.activate(
            x,
            conv_state=conv_state,
            lengths=lengths,
            segment_ids=segment_ids,
            frozen=frozen,
        )
        return self.parametrise(u, z, last, lengths=lengths, frozen=frozen)

    def parametrise(
        self,
        u: Float[Array, "b l d"],
        z: Float[Array, "b l d"],
        conv_state: Float[Array, "b d _"],
        *,
        lengths: Int[Array, "b"] | None = None,
        frozen: Frozen = NOTHING,
    ) -> SSMInputs:
        """Make the selective parameters of what the convolution put out.

        Args:
          u: what the recurrence is to read.
          z: the gate's argument.
          conv_state: the last inputs of the convolution, to be handed on.
          lengths, frozen: as in `select`.
        """
        config = self.config
        r, n = config.dt_rank, config.d_state
        if self.gates is None:
            projected = self.x_proj(u)
        else:
            projected = jnp.matmul(u, self.W_x().astype(u.dtype))
        dt, B, C = jnp.split(projected, [r, r + n], axis=-1)
        if config.mixer_rms_eps is not None:
            dt, B, C = (
                rms_norm(v, config.mixer_rms_eps).astype(u.dtype) for v in (dt, B, C)
            )
        dt_bias = self.dt_bias[...][None, None]
        delta = jax.nn.softplus(self.dt_proj(dt).astype(dt_bias.dtype) + dt_bias)
        if lengths is not None:
            places = jnp.arange(u.shape[1], dtype=lengths.dtype)
            valid = places[None, :] < lengths[:, None]
            delta = jnp.where(valid[:, :, None], delta, 0)
        if frozen.selection:
            delta, B, C = stop_gradient((delta, B, C))
        A = -jnp.exp(self.A_log[...])
        return SSMInputs(u, delta, A, B, C, self.D[...], z, conv_state)


def run_ssm(
    ssm: SSMInputs,
    *,
    ssm_state: Float[Array, "b d n"] | None = None,
    segment_ids: Int[Array, "b l"] | None = None,
    frozen: Frozen = NOTHING,
    restore: Sort | None = None,
) -> tuple[Float[Array, "b l d"], Float[Array, "b d n"]]:
    """Run the recurrence and the gate on selective parameters.

    Args:
      ssm: what `Selection.select` made.
      ssm_state: the state before the first token.
      segment_ids: packed sequences.
      frozen: what derivatives take for constants.
      restore: puts tokens back in their order before the gate.

    Returns:
      What the output projection reads, and the state after the last token.
    """
    if restore is not None or frozen.activation or frozen.gate != "no":
        y, last_state = selective_scan(
            *ssm[:6], initial_state=ssm_state, segment_ids=segment_ids
        )
        y = y if restore is None else restore(y)
        return freezing.gate(y, ssm.z, frozen), last_state
    if ssm.u.shape[1] == 1 and ssm_state is not None and segment_ids is None:
        u, delta, A, B, C, D, z, _ = ssm
        y, last_state = selective_state_update(
            ssm_state, u[:, 0], delta[:, 0], A, B[:, 0], C[:, 0], D, z[:, 0]
        )
        return y[:, None], last_state
    y, last_state = selective_scan(
        *ssm[:7], initial_state=ssm_state, segment_ids=segment_ids
    )
    return y, last_state


def _dt_bias(config: MixerConfig, rngs: nnx.Rngs):
    """Draw b with softplus(b) log-uniform in [dt_min, dt_max] (Mamba, section 3.6)."""
    low, high = jnp.log(config.dt_min), jnp.log(config.dt_max)
    dt = jnp.exp(
        jax.random.uniform(rngs.params(), (config.d_inner,)) * (high - low) + low
    )
    dt = jnp.maximum(dt, config.dt_init_floor)
    return dt + jnp.log(-jnp.expm1(-dt))


def _last_inputs(x, conv_state, lengths, segment_ids, window):
    """Return the last k-1 convolution inputs of each row of the given length.

    As in `causal_conv1d`, inputs of another segment than the last are zero.
    """
    if conv_state is None:
        conv_state = jnp.zeros((x.shape[0], x.shape[2], window - 1), x.dtype)
    past = jnp.swapaxes(conv_state, 1, 2).astype(x.dtype)  # b d k-1 -> b k-1 d
    padded = jnp.concatenate([past, x], axis=1)
    index = lengths[:, None] + jnp.arange(window - 1, dtype=lengths.dtype)[None]
    last = jnp.take_along_axis(padded, index[:, :, None], axis=1)
    if segment_ids is not None:
        runs = count_segments(segment_ids, window - 1)
        runs = jnp.take_along_axis(runs, index, axis=1)
        last = jnp.where((runs == runs[:, -1:])[:, :, None], last, 0)
    return jnp.swapaxes(last, 1, 2)  # b k-1 d -> b d k-1
