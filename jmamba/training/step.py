"""One compiled step of training."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from jmamba.ops.meshes import explicit_mesh


class TrainState(NamedTuple):
    """All that a run needs to go on.

    Attributes:
      parameters: of the model.
      optimizer: its state.
      step: steps that are done.
      average: the moving average of the parameters; None if there is none.
    """

    parameters: Any
    optimizer: Any
    step: jax.Array
    average: Any = None


class StepValues(NamedTuple):
    """What a step measures before it changes the parameters.

    Attributes:
      loss: of the batch.
      gradient_norm: of all gradients together, before they are clipped.
    """

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class StepProgram:
    """What a compiled step is made of.

    Attributes:
      graphdef: of the model.
      optimizer: at a learning rate of 1.
      loss: function of a model and a batch to a scalar.
      accumulate: parts of a batch, computed one after the other.
      average: weight of the past in the moving average of the parameters; 0 for none.
    """

    graphdef: Any
    optimizer: optax.GradientTransformation
    loss: Callable[[Any, Any], jax.Array]
    accumulate: int = 1
    average: float = 0.0

    def start(self, parameters: Any) -> TrainState:
        """Return the state before the first step; parameters are copied."""
        copies = jax.tree.map(jnp.copy, parameters)  # steps use up what they get
        average = jax.tree.map(jnp.copy, parameters) if self.average else None
        zero = jnp.zeros((), jnp.int32)
        state = TrainState(copies, self.optimizer.init(parameters), zero, average)
        return _share_counts(state)


@partial(jax.jit, static_argnames="step", donate_argnames="state")
def train_step(
    state: TrainState, batch: Any, rate: Any, *, step: StepProgram
) -> tuple[TrainState, StepValues]:
    """Return the state after one optimizer step, and what was measured before it.

        parameters += rate x update(gradient of the loss)

    Of a batch in parts i the loss and its gradient are their means, weighed as the
    parts say by `weight`, or equally: sum_i w_i loss_i / sum_i w_i.

    Args:
      state: before the step. It is used up: its memory becomes the next one's.
      batch: pytree of arrays (b, ...).
      rate: the learning rate.
      step: what the step is made of.

    Raises:
      ValueError: the parts do not divide the rows that each device has.
    """
    value, gradients = _mean_gradient(state.parameters, batch, step)
    updates, moments = _update(step.optimizer, gradients, state)

    def move(x, update):
        return x + (rate * update).astype(x.dtype)

    with jax.numpy_dtype_promotion("standard"):
        parameters = jax.tree.map(move, state.parameters, updates)
        average = None
        if state.average is not None:
            average = optax.incremental_update(
                parameters, state.average, 1 - step.average
            )
    after = TrainState(parameters, moments, state.step + 1, average)
    return after, StepValues(value, _norm(gradients))


def _norm(tree: Any) -> jax.Array:
    """Return the root of the sum of all squares."""
    squares = [jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(x.astype(jnp.float32) for x in squares))


def _mean_gradient(parameters, batch, step: StepProgram):
    """Return the loss of a batch and its gradient."""

    def loss_of(parameters, part):
        return step.loss(nnx.merge(step.graphdef, parameters), part)

    gradient_of = jax.value_and_grad(loss_of)
    if step.accumulate == 1:
        return gradient_of(parameters, batch)
    parts = jax.tree.map(partial(_split_rows, count=step.accumulate), batch)

    def add(total, part):
        weight = jnp.asarray(getattr(part, "weight", 1), jnp.float32)
        more = weight, *gradient_of(parameters, part)
        scaled = jax.tree.map(lambda x: x.astype(jnp.float32) * weight, more[1:])
        return jax.tree.map(jnp.add, total, (weight, *scaled)), None

    zero = jax.tree.map(lambda x: jnp.zeros_like(x, jnp.float32), parameters)
    start = jnp.zeros(()), jnp.zeros(()), zero
    (weight, value, gradients), _ = jax.lax.scan(add, start, parts)
    weight = jnp.maximum(weight, 1)
    return value / weight, jax.tree.map(
        lambda x, like: (x / weight).astype(like.dtype), gradients, parameters
    )


def _split_rows(x: jax.Array, count: int) -> jax.Array:
    """Return (b, ...) as (parts, b / parts, ...), every device keeping its rows."""
    mesh = explicit_mesh([x])
    shape = x.shape[0] // count, count, *x.shape[1:]
    if mesh is None:
        return jnp.moveaxis(x.reshape(shape), 1, 0)
    rows, *others = jax.typeof(x).sharding.spec
    axes = (rows,) if isinstance(rows, str) else rows or ()
    devices = math.prod(mesh.shape[axis] for axis in axes)
    if shape[0] % devices:
        raise ValueError(
            f"{x.shape[0]} rows over {devices} devices cannot be computed in {count} "
            f"parts; let accumulate divide {x.shape[0] // devices}, the rows of each."
        )
    place = NamedSharding(mesh, PartitionSpec(rows, None, *others))
    return jnp.moveaxis(jax.lax.reshape(x, shape, out_sharding=place), 1, 0)


def _update(optimizer, gradients, state: TrainState):
    """Return the optimizer's updates and its next state, each where its operand is.

    What an optimizer multiplies and sums is for XLA to place.
    """

    def run(gradients, moments, parameters):
        # optax mixes integer step counts with floats
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(gradients, moments, parameters)

    operands = gradients, state.optimizer, state.parameters
    mesh = explicit_mesh(jax.tree.leaves(gradients))
    if mesh is None:
        return run(*operands)

    def place(x):
        spec = jax.typeof(x).sharding.spec
        return NamedSharding(mesh, PartitionSpec(*spec))

    places = jax.tree.map(place, operands[:2])
    axes = mesh.abstract_mesh.explicit_axes
    run_auto: Any = jax.sharding.auto_axes(run, axes=axes, out_sharding=places)
    return run_auto(*operands)


def _share_counts(state: TrainState) -> TrainState:
    """Let every process have what lies nowhere: the counts of steps.

    That is needed where parameters lie on devices of several processes.
    """
    place = jax.tree.leaves(state.parameters)[0].sharding
    if place.is_fully_addressable:
        return state
    whole = NamedSharding(place.mesh, PartitionSpec())

    def share(x):
        if x.committed:
            return x
        return jax.make_array_from_callback(x.shape, whole, lambda index: x[index])

    return jax.tree.map(share, state)
