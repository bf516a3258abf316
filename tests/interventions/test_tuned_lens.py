"""The tuned lens: the logit lens at first, nearer to the model when trained."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_models import random_text_model, random_tokens

from jmamba.embedded import load_embedded
from jmamba.files.errors import CheckpointError, FileError
from jmamba.interventions import TunedLens, logit_lens, read_lens, train_lens
from jmamba.interventions.lens_training import LENS_TRAINING, LensBatch, LensLoss

ROOT = Path(__file__).parents[2]
X = random_tokens()


def random_lens(layers: int = 3, width: int | None = None) -> TunedLens:
    """Return a lens of random numbers, of a random model's width."""
    rng = np.random.default_rng(0)
    lens = TunedLens(layers, width or random_text_model().config.d_model)
    for param in (lens.kernel, lens.bias):
        param[...] = jnp.asarray(0.3 * rng.standard_normal(param.shape), jnp.float32)
    return lens


def read_bytes_of(*names: str) -> np.ndarray:
    return np.concatenate(
        [np.frombuffer((ROOT / name).read_bytes(), np.uint8) for name in names]
    )


def test_a_new_lens_is_the_logit_lens_bit_for_bit():
    model = random_text_model(layers=3)
    found = logit_lens(model, X, tuned=TunedLens(3, model.config.d_model))
    np.testing.assert_array_equal(found, logit_lens(model, X))


def test_a_lens_reads_what_it_translates_to():
    """In float64; the last layer is read as it is."""
    model, lens = random_text_model(layers=3), random_lens()
    kept = []
    streams = model.run_layers(model.embed(X), read=lambda b, x, out: out.x).found
    kernel, bias = (np.asarray(p[...], np.float64) for p in (lens.kernel, lens.bias))
    scale = np.asarray(model.norm_f.scale[...], np.float64)
    head = np.asarray(model.embedding[...], np.float64).T
    for layer in range(3):
        x = np.asarray(streams[layer], np.float64)
        if layer < 2:
            x = x + x @ kernel[layer] + bias[layer]
        rms = np.sqrt((x**2).mean(-1, keepdims=True) + model.config.norm_eps)
        kept.append(x / rms * scale @ head)
    found = np.asarray(logit_lens(model, X, tuned=lens))
    for layer in range(3):
        worst = np.abs(found[layer] - kept[layer]).max()
        assert worst <= 2e-6 * np.abs(kept[layer]).max()


def test_the_loss_is_the_mean_divergence():
    """Of all layers but the last, in nats."""
    model, lens = random_text_model(layers=3), random_lens()
    graphdef, state = nnx.split(model)
    loss = LensLoss(graphdef)(lens, LensBatch(X, state))
    bits = np.asarray(read_lens(model, X, tuned=lens).divergence, np.float64)
    np.testing.assert_allclose(loss, bits[:-1].mean() * np.log(2), rtol=2e-6)


def test_training_brings_every_layer_nearer_to_the_model_on_other_text(tmp_path):
    model, _ = load_embedded()
    text = read_bytes_of("docs/interventions.md", "docs/files.md", "docs/claims.md")
    config = dataclasses.replace(LENS_TRAINING, steps=30, batch=2, length=48, warmup=5)
    losses = []
    lens = train_lens(model, text, config, report=lambda r: losses.append(r.loss))
    rows = jnp.asarray(
        read_bytes_of("README.md")[1000:1256].reshape(4, 64).astype(np.int32)
    )
    before, after = (
        np.asarray(read_lens(model, rows, tuned=one).divergence).mean((1, 2))
        for one in (None, lens)
    )
    assert np.all(after[:-1] < 0.95 * before[:-1]), (before, after)
    assert losses[-1] < 0.8 * losses[0]
    lens.save(tmp_path / "lens.safetensors")
    again = TunedLens.load(tmp_path / "lens.safetensors")
    np.testing.assert_array_equal(again.kernel[...], lens.kernel[...])
    np.testing.assert_array_equal(again.bias[...], lens.bias[...])


def test_lenses_that_cannot_be(tmp_path):
    model = random_text_model(layers=2)
    with pytest.raises(ValueError, match="needs a model of 2 layers or more"):
        TunedLens(1, 8)
    with pytest.raises(ValueError, match="is of 3 layers of width 8, the model has 2"):
        logit_lens(model, X, tuned=random_lens(3, 8))
    with pytest.raises(FileError, match=r"lens.safetensors"):
        TunedLens.load(tmp_path / "lens.safetensors")
    (tmp_path / "text").write_text("no lens")
    with pytest.raises(FileError, match="cut short or no safetensors file"):
        TunedLens.load(tmp_path / "text")
    with pytest.raises(FileError, match="holds no tuned lens but .* `jmamba tune`"):
        TunedLens.load(ROOT / "jmamba/embedded/model.safetensors")
    with pytest.raises(CheckpointError):
        random_lens(3, 8).save(tmp_path / "text" / "lens.safetensors")
    with pytest.raises(ValueError, match="hold no window of 128"):
        train_lens(model, np.arange(20, dtype=np.uint8) % 7)
