"""Sorting tokens by importance, so that the most important come last."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jmamba.dynamics.theory.system import TokenSystem, vector_field
from jmamba.layers.model import LayeredModel
from jmamba.layers.recurrence import directions_of
from jmamba.ops.meshes import on_any_mesh
from jmamba.refinements.permutations import (
    AUTOREGRESSIVE,
    normalise_scores,
    remaining_variance,
)
from jmamba.refinements.sorting import class_place
from jmamba.tracing.trace import trace
from jmamba.types import Images


@on_any_mesh
def importance_scores(
    system: TokenSystem,
    u: Float[Array, "l d"],
    weights: Float[Array, "d"] | None = None,
    *,
    is_normalised: bool = False,
) -> Float[Array, "l"]:
    """Return one score per token, from what its step sizes are made of.

        s[l] = K . (S_delta u[l])

    The bias of the step sizes would add the same to all scores.

    Args:
      system: `layer_system(model, i)`, or a layer of an encoder.
      u: inputs of the recurrence.
      weights: K, learned; None for the mean over channels.
      is_normalised: whether scores get mean 0 and deviation 1, so that sorting with
        tau = 1 tells tokens apart also at the start of training, when scores are all
        about the same.

    Examples:
      >>> eye = jnp.eye(2)
      >>> system = TokenSystem(eye, eye, eye, -eye, jnp.zeros(2))
      >>> importance_scores(system, jnp.array([[1.0, 2.0], [4.0, 0.0]])).tolist()
      [1.5, 2.0]

    References:
      Vo et al., arXiv 2410.03292, section 5.2.
    """
    pre = jnp.einsum("ld,ed->le", u, system.S_delta)
    scores = jnp.mean(pre, axis=1) if weights is None else pre @ weights
    return normalise_scores(scores) if is_normalised else scores


class Reordered(NamedTuple):
    """Outputs of a reordered layer, and the matrix that reordered its tokens."""

    y: Float[Array, "l d"]
    P: Float[Array, "l l"]


@on_any_mesh
def reordered_scan(
    system: TokenSystem,
    u: Float[Array, "l d"],
    z: Float[Array, "l d"],
    P: Float[Array, "l l"],
    *,
    is_autoregressive: bool,
    restores_order: bool = True,
    D: Float[Array, "d"] | None = None,
) -> Reordered:
    """Run a layer's recurrence on reordered tokens.

        y = F(P u) + D P u,  then (P^T y) silu(z), or y silu(z) if not restored

    Gates and step sizes are made anew from P u. The official code does not put tokens
    back: it multiplies token k in the new order with the gate of, and adds it to the
    residual stream at, token k in the old one.

    Args:
      system: the layer.
      u: inputs of the recurrence.
      z: the gate's argument.
      P: `soft_sort(scores, ...)`.
      is_autoregressive: whether the layer is to predict what comes next: sorting
        lets later tokens decide where earlier ones stand.
      restores_order: False for the official mode.
      D: skip weights; None for none.

    Raises:
      ValueError: the layer is autoregressive.

    Examples:
      >>> eye = jnp.eye(2)
      >>> system = TokenSystem(eye, eye, eye, -eye, jnp.zeros(2))
      >>> u = jnp.array([[1.0, 2.0], [4.0, 0.0]])
      >>> y, _ = reordered_scan(system, u, u, eye, is_autoregressive=False)
      >>> bool(jnp.allclose(y, vector_field(system, u) * jax.nn.silu(u)))
      True

    References:
      Vo et al., arXiv 2410.03292, section 5.2, and its official code.
    """
    if is_autoregressive:
        raise ValueError(AUTOREGRESSIVE)
    x = P @ u
    y = vector_field(system, x)
    if D is not None:
        y = y + D[None] * x
    if restores_order:
        y = P.T @ y
    return Reordered(y * jax.nn.silu(z), P)


@on_any_mesh
def sorting_variances(model: LayeredModel, images: Images) -> Float[Array, "s side b"]:
    """Return `remaining_variance` of the patches of each layer that sorts its tokens.

    Near 1 where sorting permutes, near 0 where all patches became their mean: with the
    official settings a fresh model's do.

    Args:
      model: a model with `reorder`.
      images: normalised colours.

    Returns:
      One number per sorting layer, direction (forward, backward) and image.

    Raises:
      ValueError: no layer sorts, or the images do not fit the model.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.VimConfig(
      ...     d_model=16, num_layers=2, num_classes=5, image_size=32, patch_size=8,
      ...     reorder="official", reorder_layers=(1,),
      ... )
      >>> model = jmamba.Vim(config, rngs=nnx.Rngs(0))
      >>> images = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
      >>> bool((sorting_variances(model, images) < 0.01).all())
      True
    """
    layers = getattr(model.config, "sorted_layers", ())
    if not layers:
        raise ValueError(
            "No layer of this model sorts its tokens: make one with "
            'VimConfig(..., reorder="corrected").'
        )
    t = trace(model, images, layers=layers)
    graphdef, state = nnx.split(model)
    return _sorting_variances(graphdef, state, t.residual_in, t.recurrence.orders)


@partial(jax.jit, static_argnames="graphdef")
def _sorting_variances(graphdef, state, residual_in, orders):
    model = nnx.merge(graphdef, state)
    length = residual_in.shape[2]
    measure, found = jax.vmap(remaining_variance), []
    for number, layer in enumerate(model.config.sorted_layers):
        block = model.layer(layer)
        block.mixer.order = None  # what sorting is given
        recurrence = block.project(residual_in[number]).recurrence
        pair = []
        for one, P, back in zip(
            directions_of(recurrence), orders, (False, True), strict=True
        ):
            place = class_place(model.config, length, is_backward=back)
            kept = np.array([i for i in range(length) if i != place])
            P = P[number][:, kept][:, :, kept]
            pair.append(measure(P, one.u[:, kept].astype(P.dtype)))
        found.append(jnp.stack(pair))
    return jnp.stack(found)
