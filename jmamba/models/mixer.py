"""The Mamba mixer: where the selective parameters are made and used."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array, Float, Int

from jmamba.models.config import MambaConfig
from jmamba.ops import causal_conv1d, selective_scan, selective_state_update
from jmamba.ops.causal_conv1d import count_segments
from jmamba.types import LayerCache, SSMInputs
from jmamba_kernels import accumulation_dtype

torch_uniform = initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the initialisation of the released models."""


class Precision(NamedTuple):
    """Dtypes of a model: `param` of stored weights, `compute` of activations.

    A_log, D and the step-size bias are float32 at least, whatever `param` says: the
    recurrence is sensitive to them.
    """

    param: jnp.dtype
    compute: jnp.dtype

    @property
    def sensitive(self):
        """Dtype of A_log, D and the step-size bias."""
        return accumulation_dtype(self.param)


def rms_norm(x: Float[Array, "... c"], eps: float) -> Float[Array, "... c"]:
    """Return x / sqrt(mean(x^2) + eps) over the last axis, in float32 or better."""
    x = x.astype(accumulation_dtype(x.dtype))
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)


class RMSNorm(nnx.Module):
    """RMS norm with a learned scale, computed in float32 or better."""

    def __init__(self, size: int, *, eps: float, precision: Precision):
        self.scale = nnx.Param(jnp.ones((size,), precision.param))
        self.eps = eps
        self.compute = precision.compute

    def __call__(self, x: Float[Array, "... m"]) -> Float[Array, "... m"]:
        """Return x / rms(x) * scale in the compute dtype."""
        y = rms_norm(x, self.eps)
        scale = jnp.broadcast_to(self.scale[...].astype(y.dtype), y.shape)
        return (y * scale).astype(self.compute)


class Conv1D(nnx.Module):
    """Parameters of the causal depthwise convolution."""

    def __init__(self, config: MambaConfig, *, precision: Precision, rngs: nnx.Rngs):
        d, k = config.d_inner, config.d_conv
        bound = k**-0.5
        uniform = jax.random.uniform
        weight = uniform(rngs.params(), (d, k), precision.param, -bound, bound)
        bias = uniform(rngs.params(), (d,), precision.param, -bound, bound)
        self.weight = nnx.Param(weight)
        self.bias = nnx.Param(bias) if config.use_conv_bias else None


class Mixer(nnx.Module):
    """The mixer of one block: projections, convolution and selective scan.

    `ssm_inputs` is the only place that makes selective parameters; the forward pass and
    every analysis call it.

    References:
      Gu & Dao, "Mamba", arXiv 2312.00752, section 3.4 and figure 3.
      Zuo et al., "Falcon Mamba", arXiv 2410.05355, section 3.
    """

    def __init__(self, config: MambaConfig, *, precision: Precision, rngs: nnx.Rngs):
        d, m, n, r = config.d_inner, config.d_model, config.d_state, config.dt_rank

        def linear(size_in, size_out, use_bias=False, kernel_init=torch_uniform):
            return nnx.Linear(
                size_in,
                size_out,
                use_bias=use_bias,
                kernel_init=kernel_init,
                dtype=precision.compute,
                param_dtype=precision.param,
                rngs=rngs,
            )

        shrink = config.num_layers**-0.5  # keeps the residual stream's scale with depth
        self.in_proj = linear(m, 2 * d, config.use_bias)
        self.conv1d = Conv1D(config, precision=precision, rngs=rngs)
        self.x_proj = linear(d, r + 2 * n)
        self.dt_proj = linear(r, d)
        self.dt_bias = nnx.Param(_dt_bias(config, rngs).astype(precision.sensitive))
        A_log = jnp.log(jnp.arange(1, n + 1, dtype=precision.sensitive))
        self.A_log = nnx.Param(jnp.tile(A_log, (d, 1)))
        self.D = nnx.Param(jnp.ones((d,), precision.sensitive))
        self.out_proj = linear(
            d,
            m,
            config.use_bias,
            initializers.variance_scaling(shrink**2 / 3, "fan_in", "uniform"),
        )
        self.config = config

    def ssm_inputs(
        self,
        x: Float[Array, "b l m"],
        *,
        conv_state: Float[Array, "b d _"] | None = None,
        lengths: Int[Array, "b"] | None = None,
        segment_ids: Int[Array, "b l"] | None = None,
    ) -> SSMInputs:
        """Make the selective parameters of a layer from its normalised input.

            x, z = split(W_in x);  u = silu(conv(x));  dt, B, C = split(W_x u)
            delta = softplus(W_dt dt + dt_bias);  A = -exp(A_log)

        Falcon-Mamba divides dt, B and C by their RMS before W_dt.

        Args:
          x: normalised input.
          conv_state: the k-1 convolution inputs before the first token.
          lengths: tokens per row, the rest being padding on the right: padding gets
            delta = 0, which leaves the state as it is.
          segment_ids: packed sequences, see `causal_conv1d`.

        Returns:
          All operands of `selective_scan`; delta is positive and float32.
        """
        config = self.config
        r, n = config.dt_rank, config.d_state
        x, z = jnp.split(self.in_proj(x), 2, axis=-1)
        weight, bias = self.conv1d.weight[...], self.conv1d.bias
        u, last = causal_conv1d(
            x,
            weight,
            None if bias is None else bias[...],
            activation="silu",
            initial_state=conv_state,
            segment_ids=segment_ids,
        )
        if lengths is not None:
            last = _last_inputs(x, conv_state, lengths, segment_ids, config.d_conv)
        dt, B, C = jnp.split(self.x_proj(u), [r, r + n], axis=-1)
        if config.mixer_rms_eps is not None:
            dt, B, C = (
                rms_norm(v, config.mixer_rms_eps).astype(u.dtype) for v in (dt, B, C)
            )
        dt_bias = self.dt_bias[...][None, None]
        delta = jax.nn.softplus(self.dt_proj(dt).astype(dt_bias.dtype) + dt_bias)
        if lengths is not None:
            places = jnp.arange(x.shape[1], dtype=lengths.dtype)
            valid = places[None, :] < lengths[:, None]
            delta = jnp.where(valid[:, :, None], delta, 0)
        A = -jnp.exp(self.A_log[...])
        return SSMInputs(u, delta, A, B, C, self.D[...], z, last)

    def mix(
        self,
        ssm: SSMInputs,
        *,
        ssm_state: Float[Array, "b d n"] | None = None,
        segment_ids: Int[Array, "b l"] | None = None,
    ) -> tuple[Float[Array, "b l m"], Float[Array, "b d n"]]:
        """Run the recurrence on selective parameters and project its output.

        Returns:
          The mixer's output and the state after the last token.
        """
        if ssm.u.shape[1] == 1 and ssm_state is not None and segment_ids is None:
            u, delta, A, B, C, D, z, _ = ssm
            y, last_state = selective_state_update(
                ssm_state, u[:, 0], delta[:, 0], A, B[:, 0], C[:, 0], D, z[:, 0]
            )
            y = y[:, None]
        else:
            y, last_state = selective_scan(
                *ssm[:7], initial_state=ssm_state, segment_ids=segment_ids
            )
        return self.out_proj(y), last_state


class BlockOutput(NamedTuple):
    """The residual stream after a block, and all that the block made on the way."""

    x: Float[Array, "b l m"]
    ssm: SSMInputs
    cache: LayerCache


class Block(nnx.Module):
    """One residual block: x + mixer(norm(x))."""

    def __init__(self, config: MambaConfig, *, precision: Precision, rngs: nnx.Rngs):
        self.norm = RMSNorm(config.d_model, eps=config.norm_eps, precision=precision)
        self.mixer = Mixer(config, precision=precision, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b l m"],
        *,
        cache: LayerCache | None = None,
        lengths: Int[Array, "b"] | None = None,
        segment_ids: Int[Array, "b l"] | None = None,
    ) -> BlockOutput:
        """Return x + mixer(norm(x)) with everything an analysis needs.

        Args:
          x: the residual stream.
          cache: what the layer remembers of earlier tokens.
          lengths: tokens per row, the rest being padding on the right.
          segment_ids: packed sequences.
        """
        conv_state, ssm_state = (None, None) if cache is None else cache
        ssm = self.mixer.ssm_inputs(
            self.norm(x),
            conv_state=conv_state,
            lengths=lengths,
            segment_ids=segment_ids,
        )
        out, last_state = self.mixer.mix(
            ssm, ssm_state=ssm_state, segment_ids=segment_ids
        )
        cache = LayerCache(ssm.conv_state, last_state)
        return BlockOutput(x + out.astype(x.dtype), ssm, cache)


def _dt_bias(config: MambaConfig, rngs: nnx.Rngs):
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
