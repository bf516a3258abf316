"""Training any model: one compiled step in a loop that can be resumed."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jmamba.models.mamba.config import MambaConfig
from jmamba.models.mamba.model import MambaLM
from jmamba.training.classification import mean_cross_entropy
from jmamba.training.data import sample_windows
from jmamba.training.optimizer import make_optimizer, make_schedule

Trained = TypeVar("Trained", bound=nnx.Module)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run.

    Attributes:
      steps: optimizer steps.
      batch: sequences or images per step.
      length: tokens per sequence; of no use to images.
      learning_rate: peak of the cosine schedule.
      warmup: steps of linear rise.
      weight_decay: of projection matrices.
      seed: of the initial weights and of the order of the data.
      save_every: steps between checkpoints of the whole training state.
    """

    steps: int
    batch: int
    length: int = 1
    learning_rate: float = 3e-3
    warmup: int = 200
    weight_decay: float = 0.1
    seed: int = 0
    save_every: int = 500

    def __post_init__(self):
        """Check that the numbers make a run."""
        positive = ("steps", "batch", "length", "learning_rate", "save_every")
        wrong = {k: getattr(self, k) for k in positive if not getattr(self, k) > 0}
        if wrong or not 0 <= self.warmup < self.steps:
            raise ValueError(
                f"TrainConfig: {wrong or {'warmup': self.warmup}} cannot be; steps "
                "(more than warmup), batch, length, learning_rate and save_every must "
                "be positive."
            )


class TrainState(NamedTuple):
    """All that a run needs to go on: parameters, optimizer state and the step."""

    parameters: nnx.State
    optimizer: optax.OptState
    step: jax.Array


class StepReport(NamedTuple):
    """What one step tells the outside."""

    step: int
    loss: float

    @property
    def bits_per_token(self) -> float:
        """The loss in bits instead of nats."""
        return self.loss / math.log(2)


def next_token_loss(model: MambaLM, tokens) -> jax.Array:
    """Return the mean cross-entropy, in nats, of each token given those before it."""
    return mean_cross_entropy(model(tokens[:, :-1]).logits, tokens[:, 1:])


@partial(
    jax.jit, static_argnames=("graphdef", "optimizer", "loss"), donate_argnames="state"
)
def train_step(state: TrainState, batch, *, graphdef, optimizer, loss):
    """Return the state after one optimizer step, and the loss before it.

    The state that is given is used up: its memory becomes the next one's.
    """

    def loss_of(parameters):
        return loss(nnx.merge(graphdef, parameters), batch)

    value, gradients = jax.value_and_grad(loss_of)(state.parameters)
    # optax mixes integer step counts with floats
    with jax.numpy_dtype_promotion("standard"):
        updates, optimizer_state = optimizer.update(
            gradients, state.optimizer, state.parameters
        )
        parameters = jax.tree.map(jnp.add, state.parameters, updates)
    return TrainState(parameters, optimizer_state, state.step + 1), value


def fit(
    model: Trained,
    loss: Callable[[Trained, Any], jax.Array],
    draw: Callable[[int], Any],
    config: TrainConfig,
    *,
    directory: str | Path | None = None,
    report: Callable[[StepReport], None] = lambda report: None,
) -> Trained:
    """Train a model on batches drawn by the number of the step.

    Args:
      model: where to start from; it stays as it is.
      loss: function of a model and a batch to a scalar. It is compiled once per
        function: give a named one, not a new lambda each time.
      draw: function of a step to its batch, the same one whenever it is asked. It
        runs in another thread, one step ahead.
      config: settings of the run.
      directory: where to keep checkpoints of the whole state; a run that finds one
        there goes on from it, and one that was finished is read. None keeps none.
      report: called after each step.

    Returns:
      The trained model.

    Raises:
      FloatingPointError: the loss is no longer finite; says at which step.
    """
    graphdef, parameters = nnx.split(model)
    schedule = make_schedule(
        config.learning_rate, steps=config.steps, warmup=config.warmup
    )
    optimizer = make_optimizer(schedule, weight_decay=config.weight_decay)
    parameters = jax.tree.map(jnp.copy, parameters)  # steps use up what they are given
    state = TrainState(parameters, optimizer.init(parameters), jnp.zeros((), jnp.int32))
    saver = _Saver(directory, config.save_every)
    state = saver.restore(state)
    for step, batch in _draw_ahead(draw, int(state.step), config.steps):
        state, value = train_step(
            state, batch, graphdef=graphdef, optimizer=optimizer, loss=loss
        )
        value = float(value)
        if not math.isfinite(value):
            raise FloatingPointError(
                f"The loss is {value} at step {step}. Lower the learning rate "
                f"(now {config.learning_rate}); the last good checkpoint is in "
                f"{directory}."
            )
        report(StepReport(step + 1, value))
        saver.save(state, step + 1, last=step + 1 == config.steps)
    saver.close()
    return nnx.merge(graphdef, state.parameters)


def train(
    model: MambaLM,
    data: np.ndarray,
    config: TrainConfig,
    *,
    directory: str | Path | None = None,
    report: Callable[[StepReport], None] = lambda report: None,
) -> MambaLM:
    """Train a language model on random windows of a byte corpus.

    Args:
      model: where to start from; it stays as it is.
      data: the bytes to train on.
      config, directory, report: as in `fit`.

    Returns:
      The trained model.

    Raises:
      FloatingPointError: the loss is no longer finite; says at which step.
    """

    def draw(step):
        windows = sample_windows(data, batch=config.batch, length=config.length,
                                 seed=config.seed, step=step)  # fmt: skip
        return jnp.asarray(windows)

    return fit(model, next_token_loss, draw, config, directory=directory, report=report)


def _draw_ahead(draw, start: int, stop: int) -> Iterator[tuple[int, Any]]:
    """Yield steps and their batches, each drawn while the one before is trained on."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(draw, start) if start < stop else None
        for step in range(start, stop):
            assert following is not None
            batch = following.result()
            following = pool.submit(draw, step + 1) if step + 1 < stop else None
            yield step, batch


class _Saver:
    """Checkpoints of the training state through Orbax, or none."""

    def __init__(self, directory, save_every):
        self.manager = None
        if directory is not None:
            import orbax.checkpoint as ocp

            options = ocp.CheckpointManagerOptions(
                max_to_keep=2, save_interval_steps=save_every
            )
            self.manager = ocp.CheckpointManager(
                Path(directory).absolute(), options=options
            )

    def restore(self, state):
        if self.manager is None or self.manager.latest_step() is None:
            return state
        import orbax.checkpoint as ocp

        leaves, structure = jax.tree.flatten(state)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, leaves)
        restored = self.manager.restore(
            self.manager.latest_step(), args=ocp.args.StandardRestore(abstract)
        )
        bound = jax.tree.map(_bind_as, restored, leaves)
        return jax.tree.unflatten(structure, bound)

    def save(self, state, step, *, last):
        if self.manager is not None:
            import orbax.checkpoint as ocp

            leaves = jax.tree.leaves(state)
            args = ocp.args.StandardSave(leaves)
            self.manager.save(step, args=args, force=last)

    def close(self):
        if self.manager is not None:
            self.manager.wait_until_finished()
            self.manager.close()


def _bind_as(restored: jax.Array, before: jax.Array) -> jax.Array:
    """Return what was restored, bound to its devices only if it was so before.

    Counts, and a model that was placed nowhere, go where the other operands are.
    """
    return restored if before.committed else jnp.asarray(np.asarray(restored))


def new_model(config: MambaConfig, seed: int) -> MambaLM:
    """Return a model with fresh weights."""
    return MambaLM(config, rngs=nnx.Rngs(seed))
