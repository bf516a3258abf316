"""Training any model: one compiled step in a loop that can be resumed."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx

from jmamba.training.config import TrainConfig
from jmamba.training.divergence import Divergence
from jmamba.training.interrupts import Preempted, hold_interrupts
from jmamba.training.news import StepNews, is_time
from jmamba.training.optimizer import make_optimizer, make_schedule
from jmamba.training.processes import are_to_stop
from jmamba.training.reports import StepReport
from jmamba.training.settings import fingerprint
from jmamba.training.states import TrainingStates
from jmamba.training.step import StepProgram, TrainState, train_step

Trained = TypeVar("Trained", bound=nnx.Module)


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
    evaluate: Callable[[Trained], float] | None = None,
) -> Trained:
    """Train a model on batches drawn by the number of the step.

    What the run depends on is kept beside its states and compared when it goes on:
    `config`, the model's shapes, the first batch, and `settings`. Steps are begun
    before earlier ones have ended; reports come some steps late, and in order. Ctrl-C,
    or SIGTERM where Python handles it, saves the state of the last whole step; a second
    one does not wait for it.

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
      evaluate: called with the model every `config.evaluate_every` steps; what it
        returns is in the step's report. It may not keep the model's arrays, which the
        next step uses up. Of several processes each calls it.

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
        state = _run_steps(states, state, draw, config, step, report, evaluate)
    finally:
        states.close()
    return _trained(state, step)


def _run_steps(states, state, draw, config, step, report, evaluate) -> TrainState:
    """Run all steps that are left, and save states on the way."""
    rates = make_schedule(
        config.learning_rate, steps=config.steps, warmup=config.warmup
    )
    news = StepNews(Divergence(config.learning_rate), states, report)
    try:
        for number, batch in _draw_ahead(draw, int(state.step), config.steps):
            rate, done = rates(number), number + 1
            with hold_interrupts():
                state, values = train_step(state, batch, np.float32(rate), step=step)
                news.add(done, rate, values)
            if evaluate is not None and is_time(done, config.evaluate_every):
                news.tell(left=1)
                if news.are_finite():
                    news.tell(held_out=evaluate(_trained(state, step)))
            is_stopped = are_to_stop(done)
            is_last = is_stopped or done == config.steps
            if is_last or states.is_due(done):
                news.tell()  # so that nothing is saved but what is finite
                with hold_interrupts():
                    states.save(state, done, last=is_last)
            if is_stopped:
                raise Preempted
    except KeyboardInterrupt:
        is_whole = not state.step.is_deleted()  # it is not after a second Ctrl-C
        if is_whole and int(state.step) > 0 and jax.process_count() == 1:
            if news.are_finite():
                states.save(state, int(state.step), last=True)
            news.tell()
        raise
    return state


def _trained(state: TrainState, step: StepProgram) -> Any:
    """Return the model that a state stands for."""
    trained = state.parameters if state.average is None else state.average
    return nnx.merge(step.graphdef, trained)


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
