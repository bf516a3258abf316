"""Lyapunov exponents: over depth, and along the sequence."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jmamba.dynamics.trained.jacobian import check_map
from jmamba.layers.model import LayeredModel
from jmamba.layers.runs import Run, cut_runs
from jmamba.layers.stack import walk
from jmamba.ops.meshes import on_any_mesh
from jmamba.requests import WORKING_BYTES, as_key, check_finite
from jmamba.types import KeyLike, Recurrence

KEPT_PER_DIRECTION = 4
"""Arrays of the tokens' size kept per direction: before, after, and two by QR."""

FLOWN_PER_DIRECTION = 16
"""Such arrays that a direction needs on its way through a layer, about."""


class LayerStack(NamedTuple):
    """Layers that are applied one after the other.

    Attributes:
      layer: a map (parameters of one layer, x) -> x.
      parameters: of all layers, with a leading axis.
    """

    layer: Callable[[Any, Float[Array, "l m"]], Float[Array, "l m"]]
    parameters: Any

    def runs(self) -> list[Run]:
        """Return the layers for a walk: maps x -> x."""
        count = len(jax.tree.leaves(self.parameters)[0])
        made = partial(partial, self.layer)
        return [Run(slice(0, count), self.parameters, made)]


@on_any_mesh
def layer_stack(
    model: LayeredModel, start: int = 0, stop: int | None = None, *, skip: float = 1.0
) -> LayerStack:
    """Return layers start to stop - 1 of a model, for `depth_exponents`.

        x[k+1] = skip x[k] + mixer(norm(x[k]))

    Args:
      model: the model.
      start: first layer.
      stop: one past the last layer; None for the end of the model.
      skip: weight of the residual connection: 1 is the model, 0 removes it.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> stack = layer_stack(model, 1)
      >>> {len(x) for x in jax.tree.leaves(stack.parameters)}
      {1}

    References:
      Joseph et al., "Lambda-skip connections", arXiv 2410.10609.
    """
    count = model.config.num_layers
    runs = cut_runs(model.runs(), *slice(start, stop).indices(count)[:2])
    if len(runs) != 1:
        raise ValueError(
            f"layer_stack({start}, {stop}) needs layers of one kind, but these are of "
            f"{len(runs)}; give a part of the model."
        )
    layer = Partial(_OneLayer(runs[0].open, float(skip)))
    return LayerStack(layer, runs[0].parameters)


class _OneLayer(NamedTuple):
    open: Callable[[Any], Any]
    skip: float

    @on_any_mesh
    def __call__(self, state, x):
        y = self.open(state)(x[None]).x[0]
        return y if self.skip == 1 else y + (self.skip - 1) * x


@on_any_mesh
@jax.jit
def run_stack(stack: LayerStack, x: Float[Array, "l m"]) -> Float[Array, "s l m"]:
    """Return the tokens leaving each layer.

    Args:
      stack: `layer_stack(model)`, or any layers.
      x: tokens entering the first layer.

    Examples:
      >>> stack = LayerStack(Partial(lambda a, x: a * x), jnp.array([2.0, 8.0]))
      >>> run_stack(stack, jnp.ones((1, 1))).tolist()
      [[[2.0]], [[16.0]]]
    """

    def step(layer, x, own):
        x = layer(x)
        return x, x

    return walk(stack.runs(), step, x)[1]


class DepthExponents(NamedTuple):
    """Finite-time Lyapunov exponents over depth.

    Attributes:
      exponents: per layer on average, as they come: the largest first, as a rule.
      per_layer: ln R[i, i] of each layer, whose mean over layers they are.
      directions: the orthonormal directions at the end, one per exponent.
      x: the tokens at the end.
    """

    exponents: Float[Array, "p"]
    per_layer: Float[Array, "s p"]
    directions: Float[Array, "p l m"]
    x: Float[Array, "l m"]


@on_any_mesh
def depth_exponents(
    stack: LayerStack,
    x: Float[Array, "l m"],
    count: int = 1,
    *,
    token: int | None = None,
    key: KeyLike | None = None,
    memory_limit: int = WORKING_BYTES,
) -> DepthExponents:
    """Return how fast small differences of tokens grow from layer to layer.

        Q[0] random and orthonormal;  V = J[k] Q[k];  V = Q[k+1] R[k]
        exponent[i] = mean over k of ln R[k][i, i]

    The products J[k] Q[k] are `count` tangents pushed through a layer together; no
    Jacobian is formed. Sums of the first i exponents say how volumes of i directions
    grow. From a random start they take a few layers to align; `per_layer` shows it.

    Args:
      stack: `layer_stack(model)`, or any layers.
      x: tokens entering the first layer.
      count: how many exponents, l m at most.
      token: differences of all tokens for None; otherwise those of one token in its
        own later values, that is the diagonal blocks J[token, token].
      key: randomness of the first directions, or a seed; None for a fixed one.
      memory_limit: bytes that directions may take: those kept, and those in flight,
        of which there are as many at a time as fit.

    Raises:
      ValueError: count is not between 1 and the number of directions, so many
        directions take more than the limit, or x or a weight is not finite.

    Examples:
      >>> stack = LayerStack(lambda a, x: a * x, jnp.array([2.0, 8.0]))
      >>> result = depth_exponents(stack, jnp.ones((1, 3)), 2)
      >>> [round(float(v), 4) for v in result.exponents]  # ln 4
      [1.3863, 1.3863]

    References:
      Benettin et al., "Lyapunov characteristic exponents for smooth dynamical
      systems", 1980.
    """
    check_map(stack.parameters, x)
    free = x.size if token is None else x.shape[1]
    if not 1 <= count <= free:
        raise ValueError(
            f"count={count}: there are {free} directions here; give 1 to {free}."
        )
    size = KEPT_PER_DIRECTION * count * x.size * x.dtype.itemsize
    if size > memory_limit:
        raise ValueError(
            f"depth_exponents would keep {size / 2**30:.2f} GiB ({count} directions of "
            f"{x.size}, {KEPT_PER_DIRECTION} times), over the limit of "
            f"{memory_limit / 2**30:.2f} GiB. Ask for fewer exponents, those of one "
            "token by token=..., a shorter text, or raise memory_limit."
        )
    at_once = memory_limit // (FLOWN_PER_DIRECTION * x.size * x.dtype.itemsize)
    at_once = int(max(1, min(at_once, count)))
    key = as_key(key, "depth_exponents")
    mask = jnp.ones(len(x), x.dtype)
    if token is not None:
        mask = jnp.zeros(len(x), x.dtype).at[token].set(1)
    layer = stack.layer
    stack = stack._replace(
        layer=layer if isinstance(layer, Partial) else Partial(layer)
    )
    return _depth_exponents(stack, x, mask[:, None], key, count, at_once)


@partial(jax.jit, static_argnames=("count", "at_once"))
def _depth_exponents(stack, x, mask, key, count, at_once):
    def orthonormalise(V):
        Q, R = jnp.linalg.qr(V.reshape(count, -1).T)  # p (l m) -> (l m) p
        return Q.T.reshape(V.shape), jnp.log(jnp.abs(jnp.diagonal(R)))

    start = jax.random.normal(key, (count, *x.shape), x.dtype)
    Q, _ = orthonormalise(start * mask[None])

    def step(layer, carry, own):
        x, Q = carry
        x_next, push = jax.linearize(layer, x)
        V = jax.lax.map(push, Q, batch_size=at_once)
        Q, logs = orthonormalise(V * mask[None])
        return (x_next, Q), logs

    (x, Q), logs = walk(stack.runs(), step, (x, Q))
    return DepthExponents(jnp.mean(logs, axis=0), logs, Q, x)


@on_any_mesh
def sequence_exponents(recurrence: Recurrence) -> Float[Array, "b d n"]:
    """Return the Lyapunov exponents of a layer's state along the sequence, per token.

        lambda[d, n] = A[d, n] mean_t delta[t, d]

    These are exact: with its inputs fixed, the state's Jacobian is exp(delta A), and
    diagonal. None is positive.

    Args:
      recurrence: of a layer, `trace(...).layer(i)`.

    Raises:
      ValueError: a step size or a rate is not finite; nothing is checked while tracing.

    Examples:
      >>> one = jnp.ones((1, 2, 1))
      >>> gates = one[:, :, None]
      >>> recurrence = Recurrence(one, one / 2, -one[0, :1], gates, gates)
      >>> sequence_exponents(recurrence).tolist()
      [[[-0.5]]]

    References:
      Halloran, Gulati & Roysdon, "Mamba state-space models are Lyapunov-stable
      learners", arXiv 2406.00209: the bound; here the values.
    """
    check_finite({"delta": recurrence.delta, "A": recurrence.A}, "exponents")
    return jnp.mean(recurrence.delta, axis=1)[:, :, None] * recurrence.A[None]


@on_any_mesh
def memory_horizons(recurrence: Recurrence) -> Float[Array, "b d n"]:
    """Return after how many tokens a state has forgotten all but 1/e: 1 / |lambda|.

    A state that forgets nothing, of rate 0, has an infinite one.

    Args:
      recurrence: of a layer, `trace(...).layer(i)`.

    Raises:
      ValueError: a step size or a rate is not finite; nothing is checked while tracing.

    Examples:
      >>> one = jnp.ones((1, 2, 1))
      >>> gates = one[:, :, None]
      >>> recurrence = Recurrence(one, one / 2, -one[0, :1], gates, gates)
      >>> memory_horizons(recurrence).tolist()
      [[[2.0]]]
    """
    return 1 / jnp.abs(sequence_exponents(recurrence))
