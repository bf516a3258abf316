import numpy as np
import pytest

from jmamba.recipes.camouflage import ENDS, LIGHTNESS, Shapes, ground, hide, take_shapes
from jmamba.recipes.emoji import EmojiSet
from jmamba.recipes.glyphs import draw_glyphs
from jmamba.recipes.pictures import PARTS, load_pictures
from jmamba.recipes.vision.baselines import BASELINES
from jmamba.recipes.vision.explainers import baselines
from jmamba.recipes.vision.scores import measure_location, value
from jmamba.recipes.workbench import Workbench
from jmamba.training.config import TrainConfig


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    bench = Workbench(tmp_path_factory.mktemp("out"), name="demo",
                      config=TrainConfig(steps=9, batch=1, warmup=1))  # fmt: skip
    return load_pictures("glyphs", 48, bench)


def plates(light: int) -> np.ndarray:
    """Three opaque squares of one lightness."""
    found = np.full((3, 8, 8, 2), 255, np.uint8)
    found[..., 0] = light
    return found


def test_masks_are_exact():
    """Objects are all light and distractors all dark: colours say where they are."""
    shapes = Shapes((plates(255),), plates(0), ("square",))
    made = hide(shapes, 20, side=32, key=(0,))
    lightness = made.images @ LIGHTNESS
    # where a shape is whole; at its edges the ground shines through
    np.testing.assert_allclose(np.median(lightness[made.masks]), ENDS[1], atol=0.03)
    np.testing.assert_allclose(np.median(lightness[made.rivals]), ENDS[0], atol=0.03)
    middle = sum(ENDS) / 2  # the ground is of distractors' lightness, dark as well
    wrong = (lightness > middle) != made.masks
    assert wrong.mean() < 0.002


def test_hidden_pictures_repeat_and_objects_stand_apart():
    shapes = draw_glyphs(24)
    made, again = (hide(shapes, 40, side=48, key=(1, 2)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(made, again, strict=True))
    other = hide(shapes, 40, side=48, key=(1, 3))
    assert not np.array_equal(made.images, other.images)
    assert made.images.min() >= 0 and made.images.max() <= 1
    assert not (made.masks & made.rivals).any()
    assert not made.masks[:, 24, 24].any()
    for mask in (made.masks, made.rivals):
        cut = mask.reshape(40, 2, 24, 2, 24).any(axis=(2, 4))
        assert (cut.sum(axis=(1, 2)) == 1).all()  # each in one quarter
        assert (cut.sum(axis=0) > 0).all()  # and in all of them


def test_ground_has_the_lightness_of_a_shape():
    rng = np.random.default_rng(0)
    shape = np.stack([rng.integers(0, 256, (16, 16)), np.full((16, 16), 255)], -1)
    made = ground(shape.astype(np.uint8), 32, rng)
    expected = np.repeat(np.sort(shape[..., 0], axis=None), 4)
    np.testing.assert_array_equal(np.sort(made, axis=None), expected)


def test_shapes_of_emoji_have_no_colours_and_the_whole_range():
    rng = np.random.default_rng(0)
    picture = rng.integers(90, 160, (2, 64, 64, 4)).astype(np.uint8)
    picture[..., 3] = 255
    made = take_shapes(EmojiSet((picture, picture), ("a", "other")), 32)
    assert made.names == ("a",) and made.classes[0].shape == (2, 32, 32, 2)
    light = made.distractors[0, ..., 0]
    assert light.min() == 0 and light.max() == 255


def test_parts_share_no_kind(pictures):
    assert sorted(sum(PARTS.values(), ())) == list(range(8))
    kinds = {
        part: {shape.tobytes() for of_class in (*shapes.classes, shapes.distractors)
               for shape in of_class}
        for part, shapes in pictures.shapes.items()
    }  # fmt: skip
    assert all(kinds.values())
    assert not kinds["train"] & kinds["test"]
    assert not kinds["validation"] & (kinds["train"] | kinds["test"])


def test_training_pictures_are_those_of_their_step(pictures, monkeypatch):
    monkeypatch.setattr("jmamba.recipes.pictures.POOL", 64)
    first = pictures.draw(5, seed=0, step=3)
    again = pictures.draw(5, seed=0, step=3)
    np.testing.assert_array_equal(first.images, again.images)
    assert not np.array_equal(first.images, pictures.draw(5, seed=1, step=3).images)


def test_maps_that_ask_no_model_do_not_find_the_object(pictures):
    """The object and the distractor are alike but for the class of their shapes."""
    shown = pictures.new(400)
    for name, look in baselines(8).items():
        found = measure_location(shown, look(shown.images, shown.labels).grid, patch=8)
        error = found["object"].std() / 20
        assert abs(value(found, "object") - 0.5) < 0.03 + 3 * error, name
    assert {*baselines(8)} == {*BASELINES}
