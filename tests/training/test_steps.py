"""One step: parts of a batch, averages, optimizers by name, precision, recomputing."""

import logging
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import assert_close
from random_models import random_text_model, random_tokens

from jmamba import Sharding
from jmamba.training import (
    TextBatch,
    TrainConfig,
    fit,
    make_optimizer,
    new_model,
    text_loss,
)
from jmamba.training.divergence import WINDOW, Divergence
from jmamba.training.optimizer import OPTIMIZERS
from jmamba.training.step import StepProgram, train_step

ROWS, LENGTH = 8, 8


def uneven_batch() -> TextBatch:
    """Rows of which each has another number of targets."""
    tokens = random_tokens(ROWS, LENGTH + 1)
    counts = jnp.arange(LENGTH)[None] <= jnp.arange(ROWS)[:, None]
    return TextBatch(tokens[:, :-1], jnp.where(counts, tokens[:, 1:], -1))


@pytest.fixture(scope="module")
def model():
    return random_text_model(layers=1, d_model=16)


KEEPS = optax.trace(0.0)
"""Its state is the gradient."""


def gradient_after(model, batch, **choices):
    """Return the loss of a step and its gradient."""
    graphdef, parameters = nnx.split(model)
    step = StepProgram(graphdef, KEEPS, text_loss, **choices)
    after, values = train_step(step.start(parameters), batch, 0.0, step=step)
    return float(values.loss), after.optimizer.trace


@pytest.mark.parametrize("axes", [None, {"data": 2, "tensor": 2}])
def test_parts_of_a_batch_are_the_whole(model, axes):
    batch = uneven_batch()
    expected = gradient_after(model, batch)
    if axes is not None:
        sharding = Sharding(**axes, devices=jax.devices()[:4])
        model, batch = sharding.place_model(model), sharding.place_batch(batch)
    loss, gradient = gradient_after(model, batch, accumulate=4)
    assert loss == pytest.approx(expected[0], rel=1e-6)
    leaves = (jax.tree.leaves(x) for x in (gradient, expected[1]))
    for x, y in zip(*leaves, strict=True):
        assert_close(x, y, 1e-6)


def test_parts_that_do_not_divide_the_rows_of_a_device_are_refused(model):
    sharding = Sharding(data=4, devices=jax.devices()[:4])
    batch = sharding.place_batch(uneven_batch())
    with pytest.raises(ValueError, match="8 rows over 4 devices .* divide 2"):
        gradient_after(sharding.place_model(model), batch, accumulate=4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends_and_decays_projections_only(name):
    """Of gradients that are 0, only projections move, by rate x decay x themselves."""
    optimizer = make_optimizer(name, weight_decay=0.5)
    ones = jnp.ones((2, 4, 3))
    parameters = {"proj": {"kernel": ones}, "A_log": ones, "norm": jnp.ones(3)}
    state = optimizer.init(parameters)

    @jax.jit
    def update(gradients):
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(gradients, state, parameters)[0]

    moved = update(jax.tree.map(jnp.zeros_like, parameters))
    still = {"A_log": moved["A_log"], "norm": moved["norm"]}
    assert not any(np.any(x) for x in jax.tree.leaves(still))
    assert np.all(np.asarray(moved["proj"]["kernel"]) < 0)
    moved = update(jax.tree.map(jnp.ones_like, parameters))
    assert all(np.all(np.asarray(x) < 0) for x in jax.tree.leaves(moved))


def test_muon_makes_each_layer_orthogonal():
    """Singular values of every stacked matrix's update are near one size."""
    optimizer = make_optimizer("muon", weight_decay=0.0, clip=1e9)
    parameters = {"kernel": jax.random.normal(jax.random.key(0), (2, 6, 4))}
    with jax.numpy_dtype_promotion("standard"):
        moved, _ = jax.jit(optimizer.update)(
            parameters, optimizer.init(parameters), parameters
        )
    sizes = np.linalg.svd(np.asarray(moved["kernel"]), compute_uv=False)
    scale = 0.2 * np.sqrt(6)  # so that entries are as large as Adam's
    assert np.all((0.6 < sizes / scale) & (sizes / scale < 1.3))


def test_unknown_optimizers_are_refused_with_those_there_are():
    with pytest.raises(
        ValueError, match="no optimizer 'adm'; give one of adamw,.*muon"
    ):
        TrainConfig(3, 1, warmup=1, optimizer="adm")


@pytest.mark.parametrize(
    "changes", [{"average": 1.0}, {"accumulate": 3}, {"clip": 0.0}, {"accumulate": 0}]
)
def test_steps_that_cannot_be_are_refused(changes):
    with pytest.raises(ValueError, match=f"{next(iter(changes))}.*cannot be"):
        TrainConfig(3, 4, warmup=1, **changes)


def test_averages_are_of_all_steps(model):
    """average = 0.5 average + 0.5 parameters after each step, from the first on."""
    batch = uneven_batch()
    config = TrainConfig(2, ROWS, LENGTH, warmup=1, learning_rate=0.1, average=0.5)
    averaged = fit(model, text_loss, lambda step: batch, config)
    graphdef, parameters = nnx.split(model)
    step = StepProgram(graphdef, make_optimizer(), text_loss)
    state, expected = step.start(parameters), jax.device_get(parameters)
    for rate in (0.0, 0.1):
        state, _ = train_step(state, batch, np.float32(rate), step=step)
        expected = jax.tree.map(
            lambda x, y: (x + y) / 2, expected, jax.device_get(state.parameters)
        )
    found = jax.tree.leaves(nnx.state(averaged))
    for x, y in zip(found, jax.tree.leaves(expected), strict=True):
        assert_close(x, y, 1e-6)


def test_runs_of_other_rates_compile_once(model):
    batch = uneven_batch()
    run = partial(fit, model, text_loss, lambda step: batch)
    run(TrainConfig(2, ROWS, LENGTH, warmup=1))
    compiled: Any = train_step
    before = compiled._cache_size()
    run(TrainConfig(3, ROWS, LENGTH, warmup=2, learning_rate=1e-2))
    assert compiled._cache_size() == before


def test_float32_remembers_what_bfloat16_does_not_see():
    """Steps too small for bfloat16 add up, since masters are float32."""
    low = random_text_model(layers=1, d_model=16, dtype="float32")
    low = new_model(low.config, 0, dtype="bfloat16", remat=True)
    batch = uneven_batch()
    config = TrainConfig(2, ROWS, LENGTH, warmup=1, learning_rate=1e-6)
    found = fit(low, text_loss, lambda step: batch, config)
    before, after = low.embedding[...], found.embedding[...]
    assert after.dtype == jnp.float32 and not np.array_equal(before, after)
    seen = [np.asarray(x.astype(jnp.bfloat16)) for x in (before, after)]
    assert (seen[0] == seen[1]).mean() > 0.9


def test_a_run_that_rises_is_warned_of_once(caplog):
    watch = Divergence(0.1)
    with caplog.at_level(logging.WARNING, "jmamba"):
        for step in range(3 * WINDOW):
            watch.see(step, 2.0)
        assert not watch.has_warned
        for step in range(3 * WINDOW, 6 * WINDOW):
            watch.see(step, 4.0)
    assert len(caplog.records) == 1
    assert "was 2.000 at step 24: the run may diverge" in caplog.text
