"""How far small differences carry: of tokens, and of precision."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jmamba.dynamics.trained.jacobian import TokenMap
from jmamba.ops.meshes import on_any_mesh
from jmamba.tracing.trace import Trace
from jmamba_kernels import accumulation_dtype


class Ladder(NamedTuple):
    """Responses to perturbations of growing size.

    Attributes:
      differences: |f(x + size v) - f(x)| for each size.
      gains: differences / size; constant where f is linear enough, larger where
        rounding takes over.
      slope: of ln difference over ln size: 1 where the derivative tells the response.
      linear_gain: |J v|, what gains should be.
    """

    differences: Float[Array, "e"]
    gains: Float[Array, "e"]
    slope: Float[Array, ""]
    linear_gain: Float[Array, ""]


@on_any_mesh
def perturb(
    f: TokenMap,
    x: Float[Array, "l m"],
    sizes: Float[Array, "e"],
    *,
    direction: Float[Array, "l m"] | None = None,
) -> Ladder:
    """Return how far a map carries perturbations of several sizes.

    Args:
      f: `layer_span(model, ...)` or any map of tokens.
      x: tokens.
      sizes: lengths of the perturbations.
      direction: their direction; None for a fixed random one.

    Examples:
      >>> ladder = perturb(lambda x: 3 * x, jnp.zeros((2, 2)), jnp.array([0.1, 1.0]))
      >>> [round(float(v), 4) for v in (*ladder.gains, ladder.slope)]
      [3.0, 3.0, 1.0]

    References:
      Halloran, Gulati & Roysdon, arXiv 2406.00209, section 4.
    """
    if direction is None:
        direction = jax.random.normal(jax.random.key(0), x.shape, x.dtype)
    f = f if isinstance(f, Partial) else Partial(f)
    return _perturb(f, x, sizes, direction / jnp.linalg.norm(direction))


@jax.jit
def _perturb(f, x, sizes, v):
    y, push = jax.jvp(f, (x,), (v,))
    moved = jax.lax.map(lambda size: jnp.linalg.norm(f(x + size * v) - y), sizes)
    logs, steps = jnp.log(moved), jnp.log(sizes)
    steps = steps - jnp.mean(steps)
    slope = jnp.sum(steps * logs) / jnp.sum(steps * steps)
    return Ladder(moved, moved / sizes, slope, jnp.linalg.norm(push))


@on_any_mesh
def compare_traces(first: Trace, second: Trace) -> Float[Array, "s b l"]:
    """Return |h - h'| / |h| of every token after every layer, in float32 or better.

    For the same text and weights in two precisions this is how their difference grows
    over depth and along the text.

    Args:
      first: the trace that is right.
      second: another, of the same layers and tokens.

    Raises:
      ValueError: the traces are of different layers or shapes.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> exact = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> rough = jmamba.MambaLM(config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
      >>> tokens = jnp.array([list(b"hello")])
      >>> first, second = (jmamba.trace(model, tokens) for model in (exact, rough))
      >>> error = compare_traces(first, second)
      >>> bool(jnp.all((error > 0) & (error < 0.05)))
      True

    References:
      Halloran, Gulati & Roysdon, arXiv 2406.00209, section 4 (mixed precision).
    """
    h, other = first.residual_out, second.residual_out
    if h.shape != other.shape or first.layers.tolist() != second.layers.tolist():
        raise ValueError(
            f"Traces of layers {first.layers.tolist()} with shape {h.shape} and "
            f"{second.layers.tolist()} with {other.shape} cannot be compared; trace "
            "both models with the same tokens and layers."
        )
    dtype = accumulation_dtype(h.dtype)
    h, other = h.astype(dtype), other.astype(dtype)
    return jnp.linalg.norm(h - other, axis=-1) / jnp.linalg.norm(h, axis=-1)
