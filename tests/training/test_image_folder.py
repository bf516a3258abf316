"""Pictures by classes: every epoch has all of them, with their labels, on any mesh."""

import sys

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from jmamba import Sharding, Vim, VimConfig
from jmamba.training import (
    ImageFolder,
    TrainConfig,
    classification_loss,
    draw_from,
    fit,
)

CONFIG = VimConfig(
    image_size=8, patch_size=4, d_model=8, num_layers=1, d_state=3, num_classes=2
)
COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


@pytest.fixture
def folder(tmp_path):
    for name, colour in COLOURS.items():
        (tmp_path / name).mkdir()
        for number in range(4):
            picture = Image.new("RGB", (10 + number, 9), colour)
            picture.save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_every_epoch_has_all_pictures_with_their_classes(folder):
    pytest.importorskip("grain")
    images = ImageFolder(folder, CONFIG, batch=4, seed=0)
    assert images.class_names == ("blue", "red")
    epochs = []
    for first in (0, 2):
        parts = [images.read(first + step, np.arange(4)) for step in range(2)]
        pictures, labels = map(np.concatenate, zip(*parts, strict=True))
        assert pictures.shape == (8, 8, 8, 3) and sorted(labels) == [0] * 4 + [1] * 4
        is_red = pictures[..., 0].mean((1, 2)) > pictures[..., 2].mean((1, 2))
        assert np.array_equal(is_red, labels == 1)
        epochs.append(labels.tolist())
    again = ImageFolder(folder, CONFIG, batch=4, seed=0)
    assert np.array_equal(again.read(1, np.arange(4)).labels, epochs[0][4:])


def test_a_vim_learns_them_on_a_mesh(folder):
    pytest.importorskip("grain")
    sharding = Sharding(data=2, devices=jax.devices()[:2])
    images = ImageFolder(folder, CONFIG, batch=4, seed=0)
    losses = []
    fit(
        sharding.place_model(Vim(CONFIG, rngs=nnx.Rngs(0))),
        classification_loss,
        draw_from(images, sharding),
        TrainConfig(40, 4, warmup=2, learning_rate=2e-2),
        report=lambda step: losses.append(step.loss),
        settings=images.settings,
    )
    assert losses[-1] < 0.3 * losses[0]


def test_folders_without_classes_are_refused(tmp_path, folder):
    with pytest.raises(ValueError, match="no pictures by classes.*cats/1.png"):
        ImageFolder(folder / "red", CONFIG, batch=4, seed=0)
    (folder / "green").mkdir()
    with pytest.raises(ValueError, match="has 3 classes, and the model 2; give it"):
        ImageFolder(folder, CONFIG, batch=4, seed=0)


def test_grain_is_named_where_it_is_not(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ValueError, match=r'pip install "jmamba\[data\]"'):
        ImageFolder(folder, CONFIG, batch=4, seed=0)
