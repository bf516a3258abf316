import dataclasses
import io
import json
import re

import numpy as np
import pytest
from images import made_up_image
from matplotlib.image import imread
from reports import assert_readable, made_up
from test_page import Reader

from jmamba.report import write_image, write_text
from jmamba.report.folder import draw_png
from jmamba.report.image.explanation import Reading, Region
from jmamba.report.image.figures import (
    draw_heat_map,
    draw_maps_of_layers,
    heat_scale,
    methods,
)
from jmamba.report.image.page import image_page, image_summary
from jmamba.report.image.plates import IMAGE_PLATES, image_plates_of

WHOLE = made_up_image()
ONE = made_up_image(side=1, layers=1, methods=("mamba_lrp",), attention=None)
CASES = {"whole": WHOLE, "one patch": ONE, "many layers": made_up_image(layers=20)}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("plate", IMAGE_PLATES, ids=lambda plate: plate.name)
def test_plate_is_drawn_whole(plate, case):
    if getattr(CASES[case], plate.needs) is None:
        assert plate.name not in [p.name for p in image_plates_of(CASES[case])]
        return
    png = draw_png(plate.draw(CASES[case]))
    image = imread(io.BytesIO(png))[..., :3]
    assert image.std() > 0.02  # not blank
    edges = [image[:4], image[-4:], image[:, :4], image[:, -4:]]
    assert all((edge == 1).all() for edge in edges)  # nothing is cut off


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("plate", IMAGE_PLATES, ids=lambda plate: plate.name)
def test_letters_are_large_enough(plate, case):
    if getattr(CASES[case], plate.needs) is not None:
        assert_readable(plate.draw(CASES[case]))


def test_maps_lie_over_the_picture_where_the_patches_are():
    """Patches of 8 pixels every 6 have their centres at 3.5, 9.5, 15.5 and 21.5."""
    grid = np.zeros((3, 4), np.float32)
    grid[1, 2] = 1.0
    found = made_up_image(
        relevance={"mamba_lrp": grid}, method="mamba_lrp",
        seen=Region(0, 0, 20, 30), read_as=Reading(20, 30, 8, 6),
        class_attention=np.ones((3, 3, 4), np.float32),
    )  # fmt: skip
    opacity = np.asarray(draw_heat_map(found).axes[1].get_images()[-1].get_array())
    opacity = opacity[..., 3]
    peak = np.argwhere(opacity > opacity.max() - 1e-6)
    assert peak.tolist() == [[9, 15], [9, 16], [10, 15], [10, 16]]


def test_figures_say_what_they_need():
    with pytest.raises(ValueError, match="holds one method; make it with"):
        methods(ONE)
    with pytest.raises(ValueError, match="holds no attention matrices; make it"):
        draw_maps_of_layers(ONE)


def test_colours_part_at_zero_only_if_there_are_both_signs():
    _, scale = heat_scale(np.array([[-1.0, 3.0]]))
    assert (scale.vmin, scale.vmax) == (-3, 3)
    _, scale = heat_scale(np.array([[1.0, 3.0]]))
    assert (scale.vmin, scale.vmax) == (1, 3)
    _, scale = heat_scale(np.zeros((1, 2)))
    assert float(scale(0.0)) == 0


def test_page_holds_every_figure_and_escapes():
    figures = {plate.name: b"\x89PNG" for plate in IMAGE_PLATES}
    html = image_page(WHOLE, figures)
    read = Reader(html)
    shown = [a["id"] for a in read.all("figure")]
    assert shown[0] == "heat_map" and set(shown) == set(figures) - {"predictions"}
    assert "<b>bird" not in html and "<cat>" not in html
    assert "<b>bird</b>" in read.text and "<cat> & $dog$.png" in read.text
    assert not read.all("script") and not read.all("link")
    assert all(src.startswith("data:") for a in read.all("img") for src in [a["src"]])
    alts = {a["alt"].split(":")[0]: a["alt"] for a in read.all("img")}
    grid = WHOLE.relevance[WHOLE.method]
    row, column = np.unravel_index(np.argmax(np.abs(grid)), grid.shape)
    where = f"row {row + 1}, column {column + 1}, with {grid[row, column]:.3g}"
    assert where in alts["What spoke for the class"]
    assert re.search(r"goes from [\d.]+ % at", alts["When the model makes up its mind"])
    assert "patches_mamba_lrp" in read.text and "Explained is another" not in read.text
    other = made_up_image(target=4, label="eel", probability=0.01)
    assert "Explained is another class, eel" in " ".join(
        Reader(image_page(other, figures)).text.split()
    )


def test_page_of_one_method_has_no_comparison():
    figures = {plate.name: b"\x89PNG" for plate in image_plates_of(ONE)}
    read = Reader(image_page(ONE, figures))
    assert "Do other methods agree" not in read.text
    assert "methods" not in [a["id"] for a in read.all("figure")]


def test_summary_is_strict_json():
    flat = dict(WHOLE.relevance) | {"mamba_lrp": np.zeros((4, 4), np.float32)}
    found = image_summary(made_up_image(relevance=flat), ["a"])
    back = json.loads(json.dumps(found, allow_nan=False))
    assert back["agreement"]["mamba_lrp"] is None
    assert back["target"] == {"id": 2, "label": "<b>bird</b>", "probability": 0.8}
    assert back["seen"] == {"top": 0, "left": 5, "height": 20, "width": 20}


def test_reports_of_images_and_texts_replace_each_other(tmp_path):
    few = [plate for plate in IMAGE_PLATES if plate.name in ("predictions", "heat_map")]
    dataclasses.replace(write_image, plates=lambda _: few)(WHOLE, tmp_path)
    assert (tmp_path / "heat_map.png").exists()
    dataclasses.replace(write_text, plates=lambda _: few[:1])(
        made_up("ab", 1), tmp_path
    )
    assert not (tmp_path / "heat_map.png").exists()
    assert "jmamba explain" in (tmp_path / "index.html").read_text()
