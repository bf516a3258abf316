import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_models import random_text_model

from jmamba import Vim, VimConfig, trace
from jmamba.attention import hidden_attention
from jmamba.embedded import EmbeddedVim
from jmamba.models.vim.images import normalise
from jmamba.recipes.attention_figures import recipe as attention_figures
from jmamba.recipes.attention_figures.byte_attention import (
    channel_maps,
    coarse_map,
    depths,
    far_share,
    head_maps,
    reach_of_channels,
    reach_of_heads,
)
from jmamba.recipes.attention_figures.byte_transformer import (
    ByteTransformer,
    TransformerConfig,
    look,
    measure_bits,
    rotate,
)
from jmamba.recipes.attention_figures.class_token_bias import measure_bias
from jmamba.recipes.emoji import Composites
from jmamba.recipes.workbench import Workbench

TEXTS = np.random.default_rng(0).integers(0, 24, (2, 12), dtype=np.int32)


@pytest.fixture(scope="module")
def transformer():
    return ByteTransformer(TransformerConfig(8, 2, 2), rngs=nnx.Rngs(0))


@nnx.jit
def read(model, tokens):
    return model(tokens)


def test_transformer_reads_nothing_ahead(transformer):
    logits, attention = read(transformer, jnp.asarray(TEXTS))
    changed = TEXTS.copy()
    changed[:, 7:] = 5
    other, _ = read(transformer, jnp.asarray(changed))
    np.testing.assert_allclose(other[:, :7], logits[:, :7], atol=1e-6)
    assert np.abs(np.asarray(other - logits))[:, 7:].max() > 1e-3
    assert (np.asarray(attention)[..., ~np.tri(12, dtype=bool)] == 0).all()
    np.testing.assert_allclose(attention.sum(-1), 1, rtol=1e-5)


def test_rotated_products_depend_on_distance():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in "qk")
    q, k = (rotate(jnp.tile(x, (1, 1, 9, 1))) for x in (q, k))
    products = np.asarray(q[0, 0] @ k[0, 0].T)
    for apart in (0, 1, 4):
        diagonal = np.diagonal(products, -apart)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-4, atol=1e-5)
    assert np.ptp(products[:, 0]) > 0.1


def test_transformer_loss_is_the_cross_entropy(transformer):
    # causal: the last byte changes no logits before it
    logits = np.asarray(read(transformer, jnp.asarray(TEXTS))[0], np.float64)[:, :-1]
    right = np.take_along_axis(logits, TEXTS[:, 1:, None], axis=2)[..., 0]
    expected = np.mean(np.log(np.exp(logits).sum(axis=2)) - right)
    bits = measure_bits(transformer, TEXTS)
    np.testing.assert_allclose(bits, expected / np.log(2), rtol=1e-5)


def test_heads_are_ordered_by_what_they_reach(transformer):
    reach = reach_of_heads(transformer, TEXTS)
    attention = np.asarray(look(transformer, jnp.asarray(TEXTS)))
    apart = np.arange(11, -1, -1)
    expected = (attention[:, :, :, -1] * apart).sum(-1).mean(axis=1)
    np.testing.assert_allclose(reach.distance, expected, rtol=1e-4)
    near, far, mean = head_maps(transformer, TEXTS[0], 1, reach)
    maps = np.asarray(look(transformer, jnp.asarray(TEXTS[:1])))[1, 0]
    order = np.argsort(expected[1])
    np.testing.assert_allclose(near, maps[order[0]], rtol=1e-6)
    np.testing.assert_allclose(far, maps[order[1]], rtol=1e-6)
    np.testing.assert_allclose(mean, maps.mean(0), rtol=1e-6)


def test_channel_maps_are_those_of_the_chosen_channels():
    model = random_text_model(layers=2)
    reach = reach_of_channels(model, TEXTS)
    recurrence = trace(model, jnp.asarray(TEXTS[:1])).layer(1)
    alpha = np.abs(np.asarray(hidden_attention(recurrence)))[0]
    order = np.argsort(reach.distance[1])
    local, far, mean = channel_maps(model, TEXTS[0], 1, reach)
    np.testing.assert_allclose(local, alpha[order[1]], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(far, alpha[order[14]], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(mean, alpha.mean(0), rtol=1e-5, atol=1e-7)


def test_coarse_map_holds_the_largest_of_each_block():
    model = random_text_model(layers=2)
    recurrence = trace(model, jnp.asarray(TEXTS[:1])).layer(1)
    mean = np.abs(np.asarray(hidden_attention(recurrence)).mean(axis=1))[0]
    expected = mean[2::3].reshape(4, 4, 3).max(axis=2)
    found = coarse_map(model, TEXTS[0], 1, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_far_share_counts_from_the_last_token():
    model = random_text_model(layers=2)
    recurrence = trace(model, jnp.asarray(TEXTS[:1])).layer(1)
    row = np.abs(np.asarray(hidden_attention(recurrence, rows=[-1])))[0].mean(axis=0)[0]
    found = far_share(model, TEXTS[0], 5)[1]  # 5 back from token 11 is token 6
    np.testing.assert_allclose(found, row[:7].sum() / row.sum(), rtol=1e-4)


def small_vim(place) -> Vim:
    config = VimConfig(d_model=8, num_layers=2, d_state=2, num_classes=3,
                       image_size=8, patch_size=2, class_token=place)  # fmt: skip
    return Vim(config, rngs=nnx.Rngs(0))


def test_class_bias_is_the_mean_row():
    model = small_vim("first")
    images = np.random.default_rng(0).random((3, 8, 8, 3), np.float32)
    bias = measure_bias(model, images)
    recurrence = trace(model, jnp.asarray(normalise(images))).layer(1)
    row = np.abs(np.asarray(hidden_attention(recurrence, rows=[0])))[:, :, 0].mean(
        axis=(0, 1)
    )
    np.testing.assert_allclose(bias.grid[1].ravel(), row[1:], rtol=1e-4)
    np.testing.assert_allclose(
        bias.near[1], row[1:5].mean() / row[1:].mean(), rtol=1e-4
    )


def test_class_bias_needs_a_class_token():
    with pytest.raises(ValueError, match="no class token whose attention"):
        measure_bias(small_vim("none"), np.zeros((1, 8, 8, 3), np.float32))


class FewPictures:
    """Noise, of three classes."""

    names = ("a", "b", "c")

    def test(self, count):
        rng = np.random.default_rng(0)
        images = rng.random((count, 8, 8, 3), np.float32)
        labels = np.arange(count, dtype=np.int32) % 3
        return Composites(images, labels, *np.ones((2, count, 8, 8), bool))

    def draw(self, count, *, seed, step):
        return self.test(count)

    def validation(self, count):
        return self.test(count)

    def new(self, count):
        return None


@pytest.mark.exhaustive
def test_recipe_draws_all_figures(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    (tmp_path / "enwik8").write_bytes(rng.integers(0, 24, 4000, np.uint8).tobytes())
    model = random_text_model(layers=3)
    monkeypatch.setattr(attention_figures, "FILE", "enwik8")
    monkeypatch.setattr(attention_figures, "MAP_SIDE", 8)
    monkeypatch.setattr(attention_figures, "load_pictures", lambda *_: FewPictures())
    sizes = {"side": 8, "patch_size": 2, "d_model": 8, "num_layers": 2, "d_state": 2}
    small = dataclasses.replace(attention_figures.SMALL_VIM, batch=2, **sizes)
    monkeypatch.setattr(attention_figures, "SMALL_VIM", small)
    monkeypatch.setattr(attention_figures, "load_embedded", lambda: (model, None))
    vim = EmbeddedVim(small_vim("middle"), (), {})
    monkeypatch.setattr(attention_figures, "load_embedded_vim", lambda: vim)
    trained = attention_figures.train_vim

    def train_one(*asked, class_token, **named):
        """Train one of the two small models only: compiling takes the time."""
        if class_token == "first":
            return vim.model
        return trained(*asked, class_token=class_token, **named)

    monkeypatch.setattr(attention_figures, "train_vim", train_one)
    config = dataclasses.replace(
        attention_figures.SIZES["quick"], d_model=8, num_heads=2, steps=2, batch=2,
        length=16, shown=8, windows=2, long=64, trained_length=32, vim_steps=2,
        images=2,
    )  # fmt: skip

    bench = Workbench(
        tmp_path / "out", name="attention-figures", config=config, data=tmp_path
    )
    attention_figures.run(config, bench)
    text = bench.finish().read_text()
    for name in ("attention-maps", "attention-depth", "channel-distances",
                 "attention-long", "class-token-bias"):  # fmt: skip
        assert f"({name}.png)" in text
        assert (tmp_path / "out" / f"{name}.png").stat().st_size > 2000
    assert "| embedded, middle | 1 |" in text and "rank correlation of layer" in text


def test_depths_are_a_quarter_a_half_and_three_quarters():
    assert depths(4) == [1, 2, 3]


def test_directions_are_no_verdicts():
    said = [attention_figures.say_direction(c) for c in (0.9, -0.9, 0.2)]
    assert said == ["same", "other way", "neither way"]
