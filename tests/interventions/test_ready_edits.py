"""Ready-made edits, against models and layers that do the same by other means."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close
from random_models import random_mamba2_model, random_text_model, random_tokens
from three_models import make_case

from jmamba.interventions import (
    Point,
    ablate,
    average,
    capture,
    freeze_selection,
    patch,
    patch_path,
    resample,
    run,
    steer,
    zero,
)
from jmamba.layers import run_recurrence

X, Y = random_tokens(), random_tokens(seed=1)


@pytest.fixture(scope="module")
def model():
    return random_text_model(layers=2)


@pytest.fixture(scope="module")
def kept(model):
    return {name: capture(model, x) for name, x in (("X", X), ("Y", Y))}


def test_without_the_convolution_only_its_last_tap_is_left(model):
    other = nnx.clone(model)
    weight = other.layers.mixer.conv1d.weight
    weight[...] = weight[...].at[..., :-1].set(0)
    found = run(model, X, ablate("convolution")).logits
    assert_close(found, other(X).logits, 2e-6)


def test_parts_that_are_taken_out(model, kept):
    names = ("gated", "y", "output", "residual_out")
    edits = [
        ablate("gate", layers=0),
        ablate("layer", layers=1, positions=[0, 1]),
        ablate("channel", layers=1, channels=[2]),
    ]
    found = run(model, X, edits, names=names)
    assert_close(found["gated"][0], kept["X"]["y"][0], 2e-6)
    assert not np.any(found["gated"][1, :, :, 2]) and np.any(found["gated"][1, :, :, 3])
    assert not np.any(found["output"][1, :, :2]) and np.all(found["output"][1, :, 2:])
    stream = found["residual_out"]
    assert_close(stream[1, :, :2], stream[0, :, :2], 1e-7)


def test_a_head_is_its_channels():
    model = random_mamba2_model()
    found = run(model, X, zero("gated", heads=[-1]), names="gated")["gated"]
    assert not np.any(found[..., 12:]) and np.all(found[..., :12])  # four of width 4


def test_means_and_other_samples(model, kept):
    edits = [average("z", layers=0), resample("conv", batch=2, key=3, layers=0)]
    edits.append(steer(jnp.arange(8.0), layer=0, positions=-1))
    found = run(model, X, edits, names=("z", "conv", "residual_out", "output"))
    usual = kept["X"]
    mean = np.broadcast_to(usual["z"][0].mean((0, 1)), usual["z"][0].shape)
    assert_close(found["z"][0], mean, 1e-6)
    assert_close(found["conv"][0], usual["conv"][0, ::-1], 1e-6)
    added = found["residual_out"][0] - usual["residual_in"][0] - found["output"][0]
    assert_close(added[:, -1], np.tile(np.arange(8.0), (2, 1)), 1e-6)
    assert float(jnp.abs(added[:, :-1]).max()) < 1e-5


def test_selection_of_the_other_prompt_meets_values_of_this_one(model, kept):
    found = run(model, X, freeze_selection(kept["Y"], layers=0), names=("y", "u"))
    layers = [nnx.split(model.layer(0))] * 2
    made = [
        nnx.merge(*layer).project(kept[name]["residual_in"][0]).recurrence
        for layer, name in zip(layers, "XY", strict=True)
    ]
    mixed = made[1]._replace(u=made[0].u)
    assert_close(found["y"][0], run_recurrence(mixed).y, 2e-6)
    assert_close(found["u"][0], kept["X"]["u"][0], 2e-6)


def test_a_path_goes_straight_to_its_receiver():
    """Layer 0 sends to layer 2, and layer 1 does not hear of it."""
    model = random_text_model(layers=3)
    usual, others = (capture(model, x, ["output", "residual_in"]) for x in (X, Y))
    stream = usual["residual_in"][2] - usual["output"][0] + others["output"][0]
    expected = model.unembed(model.layer(2)(stream).x)
    sender, receiver = Point("output", layers=0), Point("residual_in", layers=2)
    found = patch_path(model, X, Y, sender, receiver)
    assert_close(found.logits, expected, 2e-6)
    whole = run(model, X, patch("output", others, layers=0)).logits
    assert float(jnp.abs(whole - expected).max()) > 1e-3
    with pytest.raises(ValueError, match="does not come after the sender .* exchange"):
        patch_path(model, X, Y, receiver, sender)
    with pytest.raises(
        ValueError, match=r"one layer; give Point\('output', layers=3\)"
    ):
        patch_path(model, X, Y, Point("output"), receiver)


def test_edits_are_pytrees_that_vmap_and_grad_go_through():
    case = make_case("vim")

    @jax.jit
    def logit(size, layer):
        edit = steer(jnp.ones(8) * size, layer=layer, positions=2)
        return run(case.model, case.inputs, edit).logits[0, 1]

    layers = jnp.arange(2)
    slopes = jax.vmap(jax.grad(logit), (None, 0))(0.5, layers)
    step = 1e-2
    both = [jax.vmap(logit, (None, 0))(0.5 + sign * step, layers) for sign in (1, -1)]
    assert_close(slopes, (both[0] - both[1]) / (2 * step), 1e-2)
    edit = zero("output", layers=1)
    leaves, tree = jax.tree.flatten(edit)
    assert dataclasses.asdict(jax.tree.unflatten(tree, leaves)) == dataclasses.asdict(
        edit
    )
