"""Training any model: one compiled step in a loop that can be resumed."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from flax import nnx

from jmamba.training.config import TrainConfig
from jmamba.training.divergence import Divergence
from jmamba.training.interrupts import hold_interrupts
from jmamba.training.optimizer import make_optimizer, make_schedule
from jmamba.training.processes import are_to_stop
from jmamba.training.settings import fingerprint
from jmamba.training.states import TrainingStates
from jmamba.training.step import StepProgram, TrainState, train_step

Trained = TypeVar("Trained", bound=nnx.Module)


class StepReport(NamedTuple):
    """What one step tells the outside.

    Attributes:
      step: which, from 1 on.
      loss: of its batch, in nats.
      gradient_norm: of all gradients together, before they are clipped.
      learning_rate: that it took.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float

    @property
    def bits_per_token(self) -> float:
        """The loss in bits instead of nats."""
        return self.loss / math.log(2)


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
    optimizer = make_optimizer(
        config.optimizer, weight_decay=config.weight_decay, clip=config.clip
    )
    step = StepProgram(graphdef, optimizer, loss, config.accumulate, config.average)
    states = TrainingStates(
        directory,
        {} if directory is None else _all_settings(config, parameters, draw, settings),
        save_every=config.save_every,
        extend=extend,
    )
    try:
        state = states.restore(step.start(parameters))
        state = _run_steps(states, state, draw, config, step, report)
    finally:
        states.close()
    trained = state.parameters if state.average is None else state.average
    return nnx.merge(graphdef, trained)


def _run_steps(states, state, draw, config, step, report) -> TrainState:
    """Run all steps that are left, and save states on the way."""
    rates = make_schedule(
        config.learning_rate, steps=config.steps, warmup=config.warmup
    )
    watch = Divergence(config.learning_rate)
    try:
        for number, batch in _draw_ahead(draw, int(state.step), config.steps):
            rate = rates(number)
            with hold_interrupts():
                state, values = train_step(state, batch, np.float32(rate), step=step)
                loss, norm = float(values.loss), float(values.gradient_norm)
                watch.check(number, {"loss": loss, "gradient": norm}, states)
            watch.see(number + 1, loss)
            report(StepReport(number + 1, loss, norm, rate))
            is_stopped = are_to_stop(number + 1)
            is_last = is_stopped or number + 1 == config.steps
            with hold_interrupts():
                states.save(state, number + 1, last=is_last)
            if is_stopped:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        is_whole = not state.step.is_deleted()  # it is not after a second Ctrl-C
        if is_whole and int(state.step) > 0 and jax.process_count() == 1:
            states.save(state, int(state.step), last=True)
        raise
    return state


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


def _draw_ahead(draw, start: int, stop: int) -> Iterator[tuple[int, Any]]:
    """Yield steps and their batches, each drawn while the one before is trained on."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(draw, start) if start < stop else None
        for step in range(start, stop):
            assert following is not None
            batch = following.result()
            following = pool.submit(draw, step + 1) if step + 1 < stop else None
            yield step, batch
