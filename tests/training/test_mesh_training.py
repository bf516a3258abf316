"""Training on a mesh: the states of one are gone on with on another."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close
from random_models import random_text_model, random_tokens

import jmamba
from jmamba import Sharding
from jmamba.layers.letters import path_of
from jmamba.training.batches import TextBatch, text_loss
from jmamba.training.config import TrainConfig
from jmamba.training.language import new_model
from jmamba.training.loop import fit

ROWS, LENGTH = 4, 8


def draw(step: int) -> TextBatch:
    tokens = random_tokens(ROWS, LENGTH + 1, seed=step)
    ends = jnp.full((ROWS, 1), -1, jnp.int32)
    ids = jnp.repeat(jnp.arange(2, dtype=jnp.int32), LENGTH // 2)[None]
    targets = jnp.concatenate([tokens[:, 1:LENGTH], ends], axis=1)
    return TextBatch(tokens[:, :LENGTH], targets, jnp.repeat(ids, ROWS, axis=0))


SHARES = jmamba.MambaConfig(vocab_size=512, d_model=64, num_layers=4, d_state=4)


def test_no_device_makes_more_than_its_part_of_new_weights():
    """By what arrays are held, and by what the program that makes them takes."""
    sharding = Sharding(fsdp=4, tensor=2)
    before = {id(x) for x in jax.live_arrays()}
    model = new_model(SHARES, 0, sharding=sharding)
    made = [x for x in jax.live_arrays() if id(x) not in before]
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    total = sum(x.nbytes for x in leaves)
    assert sum(x.nbytes for x in made) <= 1.01 * total  # no other copy is held
    held = dict.fromkeys(jax.devices(), 0)
    for x in made:
        for shard in x.addressable_shards:
            held[shard.device] += shard.data.nbytes
    assert max(held.values()) < 0.2 * total  # an eighth, and small ones that are whole
    places = sharding.places(model)
    paths = jax.tree.leaves_with_path(nnx.state(model, nnx.Param))
    assert all(x.sharding == places[path_of(keys)] for keys, x in paths)
    alone = jax.tree.leaves(nnx.state(new_model(SHARES, 0), nnx.Param))
    for x, y in zip(leaves, alone, strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=1e-6, atol=1e-7)
    assert program_bytes(sharding, lambda: new_model(SHARES, 0)) < 0.5 * total


def program_bytes(sharding, make) -> int:
    """Return the bytes of each device that making a model takes on the way."""
    places = sharding.places(nnx.eval_shape(make))
    state = nnx.split(nnx.eval_shape(make))[1]
    laid = jax.tree.map_with_path(
        lambda keys, x: places.get(path_of(keys), sharding.place("", ())), state
    )
    run = jax.jit(lambda: nnx.split(make())[1], out_shardings=laid)
    taken: Any = run.lower().compile().memory_analysis()
    return taken.temp_size_in_bytes


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
