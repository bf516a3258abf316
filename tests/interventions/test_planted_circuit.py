"""A circuit whose place is known is found by patching.

A model of three layers learns associative recall: tokens that each pair a key with a
value, then keys, of which it says the values. Two of its layers are planted blind: B
and C of theirs are zero, and so are the gradients of both, for each is the other's
factor. They see one token back through the convolution and no further, so that the
middle layer's state alone can carry a value to the end. What patching says is compared
with that.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jmamba import MambaConfig, MambaLM
from jmamba.attention.question import Contrast
from jmamba.interventions import sweep_patches
from jmamba.training.batches import TextBatch, text_loss
from jmamba.training.config import TrainConfig
from jmamba.training.loop import fit

pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.usefixtures("optimised_programs"),
]

KEYS, VALUES = 5, 4
ASKING = KEYS * VALUES
"""The first of the tokens that are keys; those before are pairs."""

ANSWERS = ASKING + KEYS
"""The first of the tokens that are values."""

BLIND, SEEING = (0, 2), 1


def draw_texts(seed, count: int):
    """Return pairs and keys (b, 10), the values of the keys, and where these were."""
    rng = np.random.default_rng(seed)
    keys, asked = (np.argsort(rng.random((count, KEYS)), axis=1) for _ in range(2))
    values = rng.integers(0, VALUES, (count, KEYS))
    places = (keys[:, None] == asked[:, :, None]).argmax(axis=-1)
    texts = np.concatenate([VALUES * keys + values, ASKING + asked], axis=1)
    return texts, ANSWERS + np.take_along_axis(values, places, axis=1), places


def plant() -> MambaLM:
    """Return an untrained model whose first and last layers are blind.

    What the middle one writes and reads is large from the start, to learn soon.
    """
    config = MambaConfig(
        vocab_size=ANSWERS + VALUES,
        d_model=32,
        num_layers=3,
        d_conv=2,
        dt_min=0.05,
        dt_max=0.3,
        tie_embeddings=False,
    )
    model = MambaLM(config, rngs=nnx.Rngs(0))
    model.embedding[...] = 50 * model.embedding[...]  # of deviation 1
    kernel = model.layers.mixer.x_proj.kernel
    factors = jnp.array([0.0, 4.0, 0.0])[:, None, None]
    gates = factors * kernel[...][:, :, config.dt_rank :]
    kernel[...] = kernel[...].at[:, :, config.dt_rank :].set(gates)
    return model


def train_recall() -> MambaLM:
    def draw(step):
        texts, answers, _ = draw_texts((1, step), 64)
        targets = np.full(texts.shape, -1)
        targets[:, KEYS:] = answers
        return TextBatch(jnp.asarray(texts), jnp.asarray(targets))

    config = TrainConfig(
        steps=240, batch=64, learning_rate=1e-2, warmup=24, weight_decay=0.0
    )
    return fit(plant(), text_loss, draw, config)


class Pair(NamedTuple):
    """Texts up to the first key that is asked for, and others of another answer."""

    clean: jnp.ndarray
    corrupted: jnp.ndarray
    target: Contrast
    places: np.ndarray


def draw_pair(count: int = 12) -> Pair:
    """Draw texts whose answer is out of the sight of all convolutions together."""
    texts, answers, places = draw_texts(99, 4 * count)
    far = places[:, 0] + 3 < KEYS
    texts, answer, places = (
        x[far][:count] for x in (texts, answers[:, 0], places[:, 0])
    )
    other = ANSWERS + (answer - ANSWERS + 1) % VALUES
    clean, rows = texts[:, : KEYS + 1], np.arange(count)
    corrupted = clean.copy()
    corrupted[rows, places] += other - answer  # the same key with another value
    target = Contrast(jnp.asarray(answer), jnp.asarray(other))
    return Pair(jnp.asarray(clean), jnp.asarray(corrupted), target, places)


@pytest.fixture(scope="module")
def model() -> MambaLM:
    return train_recall()


def test_the_task_is_learnt_and_blind_layers_stay_blind(model):
    texts, answers, _ = draw_texts(7, 256)
    best = np.asarray(model(texts).logits[:, KEYS:]).argmax(axis=-1)
    assert (best == answers).mean() > 0.98
    kernel = np.asarray(model.layers.mixer.x_proj.kernel[...])
    assert not kernel[list(BLIND), :, model.config.dt_rank :].any()
    assert kernel[SEEING, :, model.config.dt_rank :].any()


def patch_all(model: MambaLM, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """Yield where a text's answer is, and what each patch brings back of it, (s, l)."""
    pair = draw_pair()
    found = sweep_patches(model, pair.clean, pair.corrupted, name, target=pair.target)
    yield from zip(pair.places, np.moveaxis(found.recovered, -1, 0), strict=True)


def test_patching_the_stream_finds_where_the_answer_is(model):
    """At its token until the layer that sees has read it, and then at the end."""
    for place, (before, seen, last) in patch_all(model, "residual_out"):
        assert before.argmax() == place and before[place] > 0.5, before
        elsewhere = np.delete(before, [place, place + 1])
        np.testing.assert_allclose(elsewhere, 0, atol=1e-5)
        assert seen.argmax() == KEYS and seen[KEYS] > 0.5, seen
        np.testing.assert_allclose(seen[: KEYS - 1], 0, atol=1e-5)
        np.testing.assert_allclose(last, np.arange(KEYS + 1) == KEYS, atol=1e-5)


def test_patching_states_finds_the_layer_that_carries_the_answer(model):
    """All of it, from behind its token until the question, and no other layer any."""
    for place, layers in patch_all(model, "h"):
        np.testing.assert_allclose(layers[list(BLIND)], 0, atol=1e-5)
        np.testing.assert_allclose(layers[SEEING, :place], 0, atol=1e-5)
        np.testing.assert_allclose(layers[SEEING, place + 2 : KEYS], 1, atol=1e-4)
