"""How tokens move from layer to layer: sizes, growth, directions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmamba.ops.meshes import on_any_mesh
from jmamba.tracing.trace import Trace


class Trajectories(NamedTuple):
    """The way of every token through the residual stream.

    Attributes:
      norms: |h| entering each layer, and leaving the last: one more than layers.
      increments: |o|, the size of what each layer adds.
      growth: ln(|h out| / |h in|) of each layer.
      radial: <h, o> / |h|^2, the part of the increment that points outward.
      cosine: of the angle by which a layer turns a token.
      total_growth: running sum of growth.
    """

    norms: Float[Array, "t b l"]
    increments: Float[Array, "s b l"]
    growth: Float[Array, "s b l"]
    radial: Float[Array, "s b l"]
    cosine: Float[Array, "s b l"]
    total_growth: Float[Array, "s b l"]


@on_any_mesh
@jax.jit
def measure_trajectories(trace: Trace) -> Trajectories:
    """Return sizes and directions of all tokens over the traced layers.

    Args:
      trace: of adjacent layers, as a rule of all.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> t = measure_trajectories(jmamba.trace(model, jnp.array([list(b"hello")])))
      >>> t.norms.shape, t.growth.shape
      ((3, 1, 5), (2, 1, 5))

    References:
      Vo et al., arXiv 2410.03292, section 5 (how fast tokens move in a trained model).
    """
    h_in, h_out = trace.residual_in, trace.residual_out
    o = h_out - h_in
    size_in, size_out = (jnp.linalg.norm(h, axis=-1) for h in (h_in, h_out))
    growth = jnp.log(size_out) - jnp.log(size_in)
    return Trajectories(
        norms=jnp.concatenate([size_in, size_out[-1:]]),
        increments=jnp.linalg.norm(o, axis=-1),
        growth=growth,
        radial=jnp.sum(h_in * o, axis=-1) / size_in**2,
        cosine=jnp.sum(h_in * h_out, axis=-1) / (size_in * size_out),
        total_growth=jnp.cumsum(growth, axis=0),
    )


class GrowthLaw(NamedTuple):
    """A law of growth over depth fitted to norms.

    Attributes:
      rate: the exponent of a power law, the rate of an exponential one, or the slope
        over ln k of a logarithmic one.
      residual: root of the mean squared error of ln|h|.
    """

    rate: Float[Array, "*x"]
    residual: Float[Array, "*x"]


@on_any_mesh
def fit_growth(norms: Float[Array, "t *x"]) -> dict[str, GrowthLaw]:
    """Fit three laws of growth over depth k = 1, 2, ... to the norms of tokens.

        power        ln|h| = c + rate ln k
        exponential  ln|h| = c + rate k
        logarithmic  |h|   = c + rate ln k

    Args:
      norms: `measure_trajectories(...).norms`, three layers or more.

    Raises:
      ValueError: there are fewer than three norms.

    Examples:
      >>> laws = fit_growth(jnp.array([[1.0], [4.0], [9.0], [16.0]]))
      >>> round(float(laws["power"].rate[0]), 4)
      2.0

    References:
      Rates of Vo et al., arXiv 2410.03292, theorems of section 4, along depth.
    """
    if len(norms) < 3:
        raise ValueError(
            f"fit_growth needs norms at 3 depths or more, but got {len(norms)}; trace "
            "more layers."
        )
    k = jnp.arange(1, len(norms) + 1, dtype=norms.dtype)
    flat = norms.reshape(len(norms), -1)

    def fit(x, y, back):
        design = jnp.stack([jnp.ones_like(x), x], axis=1)
        c, rate = jnp.linalg.lstsq(design, y)[0]
        error = back(design @ jnp.stack([c, rate])) - jnp.log(flat)
        residual = jnp.sqrt(jnp.mean(error**2, axis=0))
        shape = norms.shape[1:]
        return GrowthLaw(rate.reshape(shape), residual.reshape(shape))

    smallest = jnp.finfo(norms.dtype).tiny
    return {
        "power": fit(jnp.log(k), jnp.log(flat), lambda v: v),
        "exponential": fit(k, jnp.log(flat), lambda v: v),
        "logarithmic": fit(
            jnp.log(k), flat, lambda v: jnp.log(jnp.maximum(v, smallest))
        ),
    }
