"""Gradients integrated along the straight way from a baseline."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Float

from jmamba.attention.question import (
    Inputs,
    PerSample,
    TargetChoice,
    ask,
    pick,
    read_logits,
)
from jmamba.attention.relevance.completeness import (
    MOST_MISSED,
    embed_baseline,
    warn_of_gap,
)
from jmamba.attention.relevance.gradients import logit_gradient, resolve_at
from jmamba.layers.model import LayeredModel
from jmamba.ops.meshes import on_any_mesh

MOST_PANELS = 512
"""Pieces of the way, at most, when a tolerance is asked for."""


@on_any_mesh
def integrated_gradients(
    model: LayeredModel,
    inputs: Inputs,
    *,
    target: TargetChoice = None,
    query: PerSample = None,
    baseline: Any = "mean",
    steps: int = 64,
    tolerance: float | None = None,
) -> Float[Array, "b tokens"]:
    """Return the gradient integrated from a baseline, times the way from there.

        R[j] = (x[j] - x'[j]) . integral_0^1 d logit(x' + t (x - x')) / d x[j] dt

    Relevances add up to logit(x) - logit(x') where the integral, a Gauss-Legendre sum,
    has converged. From embeddings of 0 it hardly does: norms switch on at t = 1e-5 to
    1e-2, one after the other. With a tolerance, pieces of the way whose relevances do
    not add up to the change over the piece are halved until all do.

    Args:
      model, inputs, target, query: as in `gradient_x_input`.
      baseline: what says nothing: inputs of the same shape, embeddings that broadcast
        to (b, l, m), a token id for every token of a text, or a name in `BASELINES`.
      steps: points of the sum, on each piece of the way.
      tolerance: part of the change of the logit that relevances may miss, with each
        piece's gap counted by its magnitude; None for one piece, whatever it misses.

    Returns:
      The relevance of every token of the residual stream, the class token included.

    Raises:
      ValueError: inputs or baseline do not fit the model or each other, target or query
        is out of range, there are no steps, or a tolerance is not in (0, 1) or asked
        for inside a transformation.

    Warns:
      UserWarning: relevances miss more than 1 % of the change, or than the tolerance;
        `completeness_gap` says by how much.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> hello, spaces = (jnp.array([list(text)]) for text in (b"hello", b"     "))
      >>> found = integrated_gradients(model, hello, target=3, baseline=ord(" "))
      >>> logit, at_start = (model(x).logits[0, -1, 3] for x in (hello, spaces))
      >>> bool(jnp.isclose(jnp.sum(found), logit - at_start, atol=1e-4))
      True

    References:
      Sundararajan et al., "Axiomatic attribution for deep networks", arXiv 1703.01365,
      equation 1 and proposition 1.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: give at least 1.")
    if tolerance is not None and not 0 < tolerance < 1:
        raise ValueError(
            f"tolerance={tolerance}: give a part of the change, such as 0.001, or None."
        )
    question = ask(model, inputs, target, query)
    start = embed_baseline(model, question.inputs, baseline)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    points = jnp.asarray(np.stack([(nodes + 1) / 2, weights / 2], 1), start.dtype)
    integrate = partial(_integrate, *question, start, points)
    whole = integrate(jnp.array([0, 1], start.dtype))
    if tolerance is None:
        relevance, gap = whole.relevance, whole.gap
        advice = f"with steps={steps}; give more, tolerance={MOST_MISSED}"
    else:
        relevance, gap = _refine(integrate, whole, tolerance)
        advice = f"to tolerance={tolerance}; give a larger one"
    warn_of_gap(
        gap,
        whole.change,
        f"the integral has not converged {advice}, or another baseline.",
        **({} if tolerance is None else {"part": tolerance, "rounding": 0.0}),
    )
    return relevance


class Panel(NamedTuple):
    """The integral over a piece of the way.

    Attributes:
      bounds: where on the way, t from 0 to 1.
      relevance: the integral, of every token.
      change: by how much the logit changes over the piece.
      size: the logit's magnitude there, which rounding goes by.
    """

    bounds: Float[Array, "2"]
    relevance: Float[Array, "b l"]
    change: Float[Array, "b"]
    size: Float[Array, "b"]

    @property
    def gap(self) -> Float[Array, "b"]:
        """By how much relevances miss the change."""
        return jnp.sum(self.relevance, axis=1) - self.change


def _refine(integrate: Callable, whole: Panel, tolerance: float):
    """Return relevance and gap of panels that are halved until they add up."""
    if isinstance(whole.change, Tracer):
        raise ValueError(
            "tolerance= looks at numbers, which there are none of inside jit, vmap or "
            "grad: give steps= there, or call integrated_gradients outside."
        )
    change, size = np.asarray(whole.change), np.asarray(whole.size)
    rounding = 8 * float(jnp.finfo(whole.change.dtype).eps)
    wanted = np.maximum(tolerance * np.abs(change), rounding * size)

    def missed(panel):
        return np.abs(np.asarray(panel.gap)) / wanted

    panels, gaps = [whole], [missed(whole)]
    while len(panels) < MOST_PANELS:
        short = np.sum(gaps, axis=0) > 1
        if not short.any():
            break
        worst = int(np.stack(gaps)[:, short].max(1).argmax())
        low, high = np.asarray(panels.pop(worst).bounds)
        gaps.pop(worst)
        middle = (low + high) / 2
        for bounds in ((low, middle), (middle, high)):
            panels.append(integrate(jnp.asarray(np.array(bounds, low.dtype))))
            gaps.append(missed(panels[-1]))
    relevance = jnp.sum(jnp.stack([panel.relevance for panel in panels]), axis=0)
    gap = jnp.sum(jnp.stack([jnp.abs(panel.gap) for panel in panels]), axis=0)
    return relevance, jnp.where(gap <= rounding * size, 0, gap)


@partial(jax.jit, static_argnums=0)
def _integrate(graphdef, state, inputs, target, query, start, points, bounds):
    model = nnx.merge(graphdef, state)
    x = model.embed(inputs)
    target = resolve_at(model, x, target, query)
    way, (low, high) = x - start, bounds

    def read(t):
        return pick(read_logits(model, start + t * way, query), target)

    def add(total, point):
        t, weight = point
        at = start + (low + t * (high - low)) * way
        return total + weight * logit_gradient(model, at, target, query), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(x), points)
    relevance = (high - low) * jnp.sum(way * total, axis=-1)
    before, after = read(low), read(high)
    size = jnp.maximum(jnp.abs(before), jnp.abs(after))
    return Panel(bounds, relevance, after - before, size)
