"""Training any model: one compiled step in a loop that can be resumed."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
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
from jmamba.training.data import check_windows, sample_windows
from jmamba.training.interrupts import hold_interrupts
from jmamba.training.optimizer import make_optimizer, make_schedule
from jmamba.training.settings import fingerprint
from jmamba.training.states import TrainingStates

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
        whole = ("steps", "batch", "length", "save_every", "warmup", "seed")
        positive = ("steps", "batch", "length", "save_every")
        wrong = {}
        for name, value in vars(self).items():
            kinds = (int, np.integer) if name in whole else (int, float, np.number)
            if isinstance(value, bool) or not isinstance(value, kinds):
                wrong[name] = value
            elif not int(name in positive) <= value < 2**31:  # nor NaN
                wrong[name] = value
        if not wrong and not self.learning_rate > 0:
            wrong = {"learning_rate": self.learning_rate}
        if not wrong and not self.warmup < self.steps:
            wrong = {"warmup": self.warmup}
        if wrong:
            raise ValueError(
                f"TrainConfig: {wrong} cannot be; steps (more than warmup), batch, "
                "length, learning_rate and save_every must be positive, warmup, seed "
                "and weight_decay at least 0, all below 2**31 and whole but for "
                "learning_rate and weight_decay."
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
    settings: Mapping[str, Any] | None = None,
    extend: bool = False,
) -> Trained:
    """Train a model on batches drawn by the number of the step.

    What the run depends on is kept beside its states and compared when it goes on:
    `config`, the model's shapes, the first batch, and `settings`. Ctrl-C, or SIGTERM
    where Python handles it, saves the state of the last whole step; a second one does
    not wait for it.

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
      settings: all else that the run depends on, as JSON has it.
      extend: whether a run that is there may go on to more steps than it was begun
        with. Its schedule is the longer one from then on.

    Returns:
      The trained model.

    Raises:
      FloatingPointError: the loss is no longer finite; says at which step.
      ValueError: the directory holds a run of other settings, no state there can be
        read, or the disk is full.
    """
    graphdef, parameters = nnx.split(model)
    schedule = make_schedule(
        config.learning_rate, steps=config.steps, warmup=config.warmup
    )
    optimizer = make_optimizer(schedule, weight_decay=config.weight_decay)
    states = TrainingStates(
        directory,
        {} if directory is None else _all_settings(config, parameters, draw, settings),
        save_every=config.save_every,
        extend=extend,
    )
    try:
        parameters = jax.tree.map(jnp.copy, parameters)  # steps use up what they get
        start = TrainState(
            parameters, optimizer.init(parameters), jnp.zeros((), jnp.int32)
        )
        step_of = partial(train_step, graphdef=graphdef, optimizer=optimizer, loss=loss)
        state = _run_steps(states, start, draw, config, step_of, report)
    finally:
        states.close()
    return nnx.merge(graphdef, state.parameters)


def _run_steps(states, state, draw, config, step_of, report) -> TrainState:
    """Run all steps that are left, and save states on the way."""
    state = states.restore(state)
    try:
        for step, batch in _draw_ahead(draw, int(state.step), config.steps):
            with hold_interrupts():
                state, value = step_of(state, batch)
                value = float(value)
                if not math.isfinite(value):
                    raise FloatingPointError(_broken_loss(value, step, config, states))
            report(StepReport(step + 1, value))
            with hold_interrupts():
                states.save(state, step + 1, last=step + 1 == config.steps)
    except KeyboardInterrupt:
        is_whole = not state.step.is_deleted()  # it is not after a second Ctrl-C
        if is_whole and int(state.step) > 0:
            states.save(state, int(state.step), last=True)
        raise
    return state


def _broken_loss(value: float, step: int, config: TrainConfig, states) -> str:
    saved = (
        "no state was saved"
        if states.saved is None
        else f"the last good state, after step {states.saved}, is in {states.directory}"
    )
    return (
        f"The loss is {value} at step {step}. Lower the learning rate "
        f"(now {config.learning_rate}); {saved}."
    )


def _all_settings(config: TrainConfig, parameters, draw, settings) -> dict[str, Any]:
    """Return all that a run depends on."""
    shapes = jax.tree.leaves_with_path(parameters)
    lines = [f"{jax.tree_util.keystr(p)} {x.shape} {x.dtype}" for p, x in shapes]
    return {
        **dataclasses.asdict(config),
        "parameters": hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16],
        "first_batch": fingerprint(draw(0)),
        **(settings or {}),
    }


def train(
    model: MambaLM,
    data: np.ndarray,
    config: TrainConfig,
    *,
    directory: str | Path | None = None,
    report: Callable[[StepReport], None] = lambda report: None,
    extend: bool = False,
) -> MambaLM:
    """Train a language model on random windows of a byte corpus.

    Args:
      model: where to start from; it stays as it is.
      data: the bytes to train on.
      config, directory, report, extend: as in `fit`.

    Returns:
      The trained model.

    Raises:
      FloatingPointError: the loss is no longer finite; says at which step.
      ValueError: as in `fit`, or the data are shorter than a window.
    """
    check_windows(len(data), config.length)

    def draw(step):
        windows = sample_windows(data, batch=config.batch, length=config.length,
                                 seed=config.seed, step=step)  # fmt: skip
        return jnp.asarray(windows)

    settings = {
        "model": dataclasses.asdict(model.config),
        "data": hashlib.sha256(np.ascontiguousarray(data).data).hexdigest()[:16],
    }
    return fit(
        model,
        next_token_loss,
        draw,
        config,
        directory=directory,
        report=report,
        settings=settings,
        extend=extend,
    )


def _draw_ahead(draw, start: int, stop: int) -> Iterator[tuple[int, Any]]:
    """Yield steps and their batches, each drawn while the one before is trained on."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(draw, start) if start < stop else None
        for step in range(start, stop):
            assert following is not None
            batch = following.result()
            following = pool.submit(draw, step + 1) if step + 1 < stop else None
            yield step, batch


def new_model(config: MambaConfig, seed: int) -> MambaLM:
    """Return a model with fresh weights."""
    return MambaLM(config, rngs=nnx.Rngs(seed))
