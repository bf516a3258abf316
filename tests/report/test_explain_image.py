import dataclasses
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from images import NAMES, draw_picture, named_vim
from PIL import Image
from scipy import stats
from vision_definition import tiny_vim

from jmamba import VimConfig, trace
from jmamba.attention import METHODS, explain, patch_grid, reduced_attention
from jmamba.models.vim.images import (
    normalise,
    preprocess,
    preprocessing_of,
    resize_whole,
)
from jmamba.report import explain_image, write_image
from jmamba.report.choices import USUAL
from jmamba.report.image.measure import seen_region
from jmamba.report.outcomes import choose_class

MODEL, PICTURE = named_vim(), draw_picture()
MODULE = sys.modules["jmamba.report.image.measure"]  # the function has its name


@pytest.fixture(scope="module")
def inputs():
    return jnp.asarray(preprocess(PICTURE, **preprocessing_of(MODEL.config)))


FEW = ("mamba_attribution", "unified_attribution", "mamba_lrp", "gradient_x_input")
"""Methods to compare: with settings of two kinds, and without; compiling takes long."""


@pytest.fixture(scope="module")
def found():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "jmamba.report.relevance.METHODS", {name: METHODS[name] for name in FEW}
        )
        return explain_image(
            MODEL,
            PICTURE,
            method=FEW[0],
            target="dog",
            top=3,
            crop=True,
            all_methods=True,
        )


def test_arrays_are_finite_and_named(found):
    shapes = {name: array.shape for name, array in found.arrays().items()}
    grids = {f"patches_{name}": (3, 3) for name in FEW}
    assert shapes == grids | {
        "mamba_attribution": (20, 30),  # the picture's own size
        "seen": (4,),
        "chosen_layers": (2,),
        "prediction_ids": (3,),
        "prediction_probabilities": (3,),
        "class_attention": (2, 3, 3),
        "attention": (2, 10, 10),
        "layer_probabilities": (3, 3),
        "residual_norms": (3, 10),
    }
    assert all(np.isfinite(array).all() for array in found.arrays().values())


def test_predictions_are_the_models(found, inputs):
    p = np.asarray(jax.nn.softmax(MODEL(inputs)[0]))
    assert found.predictions.ids.tolist() == np.argsort(-p)[:3].tolist()
    assert found.predictions.labels == tuple(NAMES[i] for i in found.predictions.ids)
    np.testing.assert_allclose(
        found.predictions.probabilities, np.sort(p)[:-4:-1], rtol=1e-5
    )
    assert found.target == 1 and found.probability == pytest.approx(p[1], rel=1e-5)


def test_relevance_is_each_methods(found, inputs):
    for method in ("mamba_attribution", "gradient_x_input"):
        whole = explain(MODEL, inputs, method, target=1)
        grid = np.asarray(patch_grid(MODEL, whole, 12, 12)[0])
        np.testing.assert_allclose(found.relevance[method], grid, rtol=1e-6)
    assert list(found.relevance)[0] == found.method
    assert set(found.relevance) == set(FEW)


def test_heat_is_where_the_model_looked(found):
    heat = found.heat()
    assert found.seen == seen_region(30, 20, crop=True) == (0, 5, 20, 20)
    assert (heat[:, :5] == 0).all() and (heat[:, 25:] == 0).all()
    inside = heat[:, 5:25]
    # at the centres of patches the map is the patches', or between their neighbours
    grid = found.relevance[found.method]
    assert inside.min() >= grid.min() - 1e-6 and inside.max() <= grid.max() + 1e-6
    corners = inside[[0, 0, -1, -1], [0, -1, 0, -1]]
    np.testing.assert_allclose(corners, grid[[0, 0, -1, -1], [0, -1, 0, -1]], rtol=1e-5)


def test_pictures_are_read_whole_unless_asked_otherwise():
    found = explain_image(MODEL, PICTURE, method="raw_attention", matrices=False)
    assert found.seen == (0, 0, 20, 30) and found.part.shape == (20, 30, 3)
    assert found.read_as == (12, 20, 4, 4)  # 18, to whole patches
    assert found.relevance["raw_attention"].shape == (3, 5)
    resized = Image.fromarray(PICTURE).resize((20, 12), Image.Resampling.BICUBIC)
    inputs = jnp.asarray(normalise(np.asarray(resized, np.float32)[None] / 255))
    p = jax.nn.softmax(MODEL(inputs)[0])
    assert_close(found.predictions.probabilities, -np.sort(-p), 1e-5)
    # pixel y of 20 is at (y + 1/2) 12 / 20 - 1/2 of the 12 that the model read
    at, centres = (np.arange(20) + 0.5) * 12 / 20 - 0.5, [1.5, 5.5, 9.5]
    expected = np.interp(at, centres, found.relevance["raw_attention"][:, 0])
    assert_close(found.heat()[:, 0], expected, 1e-6)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(40, 40, (14, 14)), (20, 30, (20, 14)), (30, 20, (14, 20)), (1, 500, (56, 14))],
)
def test_whole_pictures_keep_their_ratio_up_to_whole_patches(height, width, size):
    config = VimConfig(d_model=8, image_size=14, patch_size=4)
    picture = np.full((height, width, 3), 7, np.uint8)
    assert resize_whole(picture, config).size == size


def test_attention_is_the_class_tokens(found, inputs):
    recurrence = trace(MODEL, inputs).layer(1)
    matrix = np.asarray(reduced_attention(recurrence, "mean_abs")[0])
    np.testing.assert_allclose(found.attention[1], matrix, rtol=1e-5)
    row = np.delete(matrix[found.class_index], found.class_index)
    np.testing.assert_allclose(found.class_attention[1].ravel(), row, rtol=1e-5)
    few = explain_image(MODEL, PICTURE, crop=True, matrices=False)
    assert few.attention is None and few.others is None
    np.testing.assert_allclose(few.class_attention, found.class_attention, rtol=1e-5)


def test_last_reading_is_the_prediction(found):
    np.testing.assert_allclose(
        found.reading[-1], found.predictions.probabilities, rtol=1e-5
    )


def test_agreement_is_spearmans(found):
    for name, value in found.agreement().items():
        pair = found.relevance["mamba_attribution"], found.relevance[name]
        expected, _ = stats.spearmanr(*(grid.ravel() for grid in pair))
        assert value == pytest.approx(expected, abs=1e-6)
    same = {"mamba_attribution": np.ones((3, 3), np.float32)}
    flat = dataclasses.replace(found, relevance=found.relevance | same)
    assert all(np.isnan(value) for value in flat.agreement().values())


def test_model_without_class_token_is_explained(inputs):
    model = tiny_vim(class_token="none")
    found = explain_image(model, PICTURE, crop=True, matrices=False)
    assert found.relevance[found.method].shape == (3, 3)
    assert found.label == f"class {found.target}" and found.class_index is None
    matrix = reduced_attention(trace(model, inputs).layer(0), "mean_abs")[0]
    np.testing.assert_allclose(
        found.class_attention[0].ravel(), np.mean(matrix, axis=0), rtol=1e-5
    )


def test_settings_reach_the_method(inputs):
    asked: dict[str, Any] = {
        "method": "mamba_attribution",
        "settings": "official_2024",
    }
    found = explain_image(MODEL, PICTURE, target=2, crop=True, **asked)
    whole = explain(MODEL, inputs, target=2, **asked)
    grid = patch_grid(MODEL, whole, 12, 12)[0]
    np.testing.assert_allclose(found.relevance[found.method], grid, rtol=1e-6)
    assert found.settings["settings"] == "official_2024"
    assert USUAL["mamba_attribution"] == "paper" and "mamba_lrp" not in USUAL


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "magic"}, "Unknown method 'magic': give one of raw_attention"),
        (
            {"method": FEW[0], "settings": "magic"},
            "Unknown settings 'magic': give paper",
        ),
        ({"method": "mamba_lrp", "settings": "paper"}, "mamba_lrp takes none"),
        ({"top": 0}, "top must be at least 1"),
        ({"layers": [2]}, "layers 0 to 1"),
        ({"target": 5}, "There is no class 5: the model tells 5 apart, 0 to 4"),
        ({"target": "-1"}, "There is no class -1"),
        ({"target": "brid"}, r"no class 'brid'\. Classes are cat, dog, small bird"),
        ({"target": "small brd"}, r"Near are small bird; a number from 0 to 4"),
    ],
)
def test_mistakes_are_said(options, match):
    with pytest.raises(ValueError, match=match):
        explain_image(MODEL, PICTURE, **options)


def test_classes_without_names_go_by_number():
    config = VimConfig(d_model=8, num_classes=3)
    assert choose_class(config, " 2 ") == 2
    with pytest.raises(ValueError, match='config.json names none: give.*"id2label"'):
        choose_class(config, "cat")


def test_why_one_class_rather_than_another():
    options = {"method": "gradient_x_input", "crop": True, "matrices": False}
    first, second, both = (
        explain_image(MODEL, PICTURE, target=target, against=against, **options)
        for target, against in (("dog", None), ("cat", None), ("dog", "cat"))
    )
    assert both.label == "dog rather than cat" and both.target == first.target
    difference = first.relevance[first.method] - second.relevance[first.method]
    np.testing.assert_allclose(
        both.relevance[first.method], difference, rtol=1e-3, atol=1e-5
    )


def test_methods_that_refuse_are_named(found, monkeypatch):
    assert "refused" not in found.settings

    def refuse(model, inputs, method, **options):
        if method != "mamba_lrp":
            raise ValueError("too large")
        return jnp.ones((1, 10))

    monkeypatch.setattr(MODULE, "explain", refuse)
    few = explain_image(
        MODEL, PICTURE, method="mamba_lrp", matrices=False, crop=True, all_methods=True
    )
    assert few.others is None
    assert few.settings["refused"] == {
        name: "too large" for name in METHODS if name != "mamba_lrp"
    }


def test_weights_that_overflow_are_said():
    model = tiny_vim()
    model.head.kernel[...] = jnp.full((8, 5), jnp.inf)
    with pytest.raises(ValueError, match="logits of tiny are not finite"):
        explain_image(model, PICTURE, name="tiny")


def test_relevance_that_overflows_is_said(monkeypatch):
    def fail(model, inputs, method, **options):
        return jnp.full((1, 10), jnp.nan)

    monkeypatch.setattr(MODULE, "explain", fail)
    with pytest.raises(ValueError, match="relevance that mamba_lrp finds is not fin"):
        explain_image(MODEL, PICTURE, method="mamba_lrp", crop=True)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (12, 12)])
def test_pictures_of_any_shape_are_explained(shape, tmp_path):
    picture = Image.fromarray(draw_picture(*shape))
    picture.save(tmp_path / "picture.png")
    found = explain_image(MODEL, tmp_path / "picture.png", matrices=False)
    assert found.heat().shape == shape and found.name.endswith("picture.png")
    page = write_image(found, tmp_path / "out")
    summary = json.loads((page.parent / "summary.json").read_text())
    assert summary["size"] == {"width": shape[1], "height": shape[0]}
    assert set(summary["files"]) == {path.name for path in page.parent.iterdir()}
    assert "methods.png" not in summary["files"]
    with np.load(page.parent / "arrays.npz") as arrays:
        assert arrays[found.method].shape == shape
        np.testing.assert_array_equal(arrays[found.method], found.heat())
