"""Training on a mesh: the states of one are gone on with on another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close
from random_models import random_text_model, random_tokens

from jmamba import Sharding
from jmamba.training.batches import TextBatch, text_loss
from jmamba.training.config import TrainConfig
from jmamba.training.loop import fit

ROWS, LENGTH = 4, 8


def draw(step: int) -> TextBatch:
    tokens = random_tokens(ROWS, LENGTH + 1, seed=step)
    ends = jnp.full((ROWS, 1), -1, jnp.int32)
    ids = jnp.repeat(jnp.arange(2, dtype=jnp.int32), LENGTH // 2)[None]
    targets = jnp.concatenate([tokens[:, 1:LENGTH], ends], axis=1)
    return TextBatch(tokens[:, :LENGTH], targets, jnp.repeat(ids, ROWS, axis=0))


CONFIG = TrainConfig(3, ROWS, LENGTH, warmup=1, save_every=1)


@pytest.fixture(scope="module")
def model():
    return random_text_model(layers=1, d_model=16)


def stop_after(step: int):
    def report(done):
        if done.step == step:
            raise KeyboardInterrupt

    return report


def test_run_goes_on_upon_another_mesh(model, tmp_path):
    """A step on data and tensor, the rest on fsdp and sequence: as on one device."""
    first = Sharding(data=2, tensor=2, devices=jax.devices()[:4])
    then = Sharding(fsdp=2, sequence=2, devices=jax.devices()[4:])

    def run(sharding, report):
        return fit(
            sharding.place_model(model),
            text_loss,
            lambda step: sharding.place_batch(draw(step)),
            CONFIG,
            directory=tmp_path,
            report=report,
        )

    with pytest.raises(KeyboardInterrupt):
        run(first, stop_after(1))
    steps = []
    found = run(then, lambda report: steps.append(report.step))
    assert steps == [2, 3]
    expected = fit(model, text_loss, draw, CONFIG)
    assert found.embedding[...].sharding == then.places(model)["embedding",]
    leaves = (jax.tree.leaves(nnx.state(m)) for m in (found, expected))
    for x, y in zip(*leaves, strict=True):
        assert_close(x, y, 1e-4)


def test_targets_below_zero_do_not_count(model):
    batch = draw(0)
    shorter = jax.tree.map(lambda x: x[:, : LENGTH - 1], batch)
    assert_close(text_loss(model, batch), text_loss(model, shorter), 1e-6)


def test_packed_texts_are_those_apart(model):
    batch, half = draw(0), LENGTH // 2
    apart = jax.tree.map(
        lambda x: np.concatenate([x[:, :half], x[:, half:]]), batch
    )._replace(segment_ids=None)
    assert_close(text_loss(model, batch), text_loss(model, apart), 1e-6)
