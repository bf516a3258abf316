"""A second kind of layer, which the package does not have: decayed linear attention.

It proves the seam: what follows is all that a language model of such layers needs.

    h[t] = gamma h[t-1] + k[t] v[t]^T,  y[t] = h[t]^T q[t],  gamma = 1 - 2^(-5 - head)
    out = W_out (norm_per_head(y) silu(z))

Sun et al., "Retentive network", arXiv 2307.08621, section 2, without rotations.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jmamba.layers import (
    NOTHING,
    LayerCache,
    Mixer,
    Precision,
    Projection,
    Recurrence,
    freezing,
)
from jmamba.layers.linear import make_linear
from jmamba.layers.norm import rms_norm
from jmamba.models.config import LanguageModelConfig
from jmamba.models.language_model import LanguageModel
from jmamba_kernels import accumulation_dtype


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetentionConfig(LanguageModelConfig):
    """Describe a language model of retention layers."""

    num_heads: int = 2
    key_width: int = 3
    value_width: int = 4


class Retention(Mixer):
    """Decayed linear attention with heads, a norm per head and a gate."""

    def __init__(self, config: RetentionConfig, precision: Precision, rngs: nnx.Rngs):
        self.config = config
        h, n, p = config.num_heads, config.key_width, config.value_width
        self.sizes = (h * n, h * n, h * p, h * p)
        m, parts = config.d_model, {"precision": precision, "rngs": rngs}
        self.in_proj = make_linear(m, sum(self.sizes), **parts)
        self.out_proj = make_linear(h * p, m, **parts)

    def project(  # pyright: ignore[reportIncompatibleMethodOverride] (texts only)
        self, x, *, kept=None, lengths=None, segment_ids=None, frozen=NOTHING
    ):
        """Make queries, keys and values of every head."""
        h, n = self.config.num_heads, self.config.key_width
        made = freezing.call_linear(self.in_proj, x, "in_proj", frozen)
        ends = [sum(self.sizes[:i]) for i in (1, 2, 3)]
        q, k, v, z = jnp.split(made, ends, axis=-1)
        if frozen.selection:
            q, k = jax.lax.stop_gradient((q, k))
        q, k = (a.reshape(*a.shape[:2], h, n) for a in (q, k))
        wide = accumulation_dtype(x.dtype)
        delta = jnp.ones((*x.shape[:2], h), wide)
        if lengths is not None:  # padding neither writes nor decays
            valid = jnp.arange(x.shape[1], dtype=lengths.dtype)[None] < lengths[:, None]
            delta = jnp.where(valid[..., None], delta, 0)
        A = jnp.log1p(-(2.0 ** -(5 + jnp.arange(h, dtype=wide))))[:, None]
        C = q * jnp.asarray(n**-0.5, q.dtype)
        return Projection(Recurrence(v, delta, A, B=k, C=C, z=z))

    def gate(self, y, recurrence, *, frozen=NOTHING):
        """Return norm_per_head(y) silu(z)."""
        heads = y.reshape(*y.shape[:2], self.config.num_heads, -1)
        normed = rms_norm(heads, self.config.norm_eps, frozen=frozen.norm)
        normed = normed.reshape(y.shape).astype(y.dtype)
        assert recurrence.z is not None
        return freezing.gate(normed, recurrence.z, frozen)

    def project_out(self, y, *, frozen=NOTHING):
        """Return W_out y."""
        return freezing.call_linear(self.out_proj, y, "out_proj", frozen)

    def empty_cache(self, batch, dtype):
        """Return a state of zeros; nothing else is kept."""
        n, d = self.config.key_width, self.sizes[2]
        return LayerCache(None, jnp.zeros((batch, d, n), accumulation_dtype(dtype)))


class RetentionLM(LanguageModel):
    """A language model of retention layers."""

    config: RetentionConfig

    @classmethod
    def make_mixer(cls, config, precision, rngs):
        """Return a retention layer."""
        return Retention(config, precision, rngs)
