import dataclasses
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib import get_data_path
from matplotlib.colors import to_rgb
from matplotlib.font_manager import get_font
from matplotlib.image import imread
from reports import assert_readable, made_up

from jmamba.figures import canvas, fonts
from jmamba.figures.canvas import label_step, log_scale
from jmamba.figures.fonts import drawable
from jmamba.figures.labels import BLANKS
from jmamba.report.folder import draw_png
from jmamba.report.text.figures import (
    draw_attention_depth,
    draw_attention_maps,
    draw_drivers,
    draw_jacobian_norms,
)
from jmamba.report.text.plates import TEXT_PLATES, text_plates_of

LONG = ("It was the best of times, $5 and $6, é 中 😀\n" * 7)[:300]
CASES = {
    "one token": made_up("A", 1),
    "short": made_up("né $a$ b\n", 2),
    "long": made_up(LONG, 20),
}


def pixels(plate, explanation):
    return imread(io.BytesIO(draw_png(plate.draw(explanation))))[..., :3]


@pytest.mark.parametrize("plate", TEXT_PLATES, ids=lambda plate: plate.name)
@pytest.mark.parametrize("case", CASES)
def test_plate_is_drawn_whole(plate, case):
    image = pixels(plate, CASES[case])
    assert image.std() > 0.02  # not blank
    edges = [image[:4], image[-4:], image[:, :4], image[:, -4:]]
    assert all((edge == 1).all() for edge in edges)  # nothing is cut off


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("plate", TEXT_PLATES, ids=lambda plate: plate.name)
def test_letters_are_large_enough(plate, case):
    assert_readable(plate.draw(CASES[case]))


def test_colours_are_apart_for_every_eye():
    """As seen without one of the cones, by Machado et al. 2009, in steps of Lab."""
    cones = {
        "protanopia": [[0.152286, 1.052583, -0.204868],
                       [0.114503, 0.786281, 0.099216],
                       [-0.003882, -0.048116, 1.051998]],
        "deuteranopia": [[0.367322, 0.860646, -0.227968],
                         [0.280085, 0.672501, 0.047413],
                         [-0.011820, 0.042940, 0.968881]],
    }  # fmt: skip
    for name, matrix in cones.items():
        for colours in (canvas.SERIES, (canvas.TOWARD, canvas.AGAINST)):
            rgb = np.array([to_rgb(colour) for colour in colours])
            linear = np.where(
                rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4
            )
            lab = lab_of(np.clip(linear @ np.array(matrix).T, 0, 1))
            apart = np.linalg.norm(lab[:, None] - lab, axis=-1)
            assert apart[np.triu_indices(len(lab), 1)].min() > 10, name


def lab_of(linear):
    """Return CIE Lab of linear sRGB, white at D65."""
    to_xyz = [
        [0.4124, 0.3576, 0.1805],
        [0.2126, 0.7152, 0.0722],
        [0.0193, 0.1192, 0.9505],
    ]
    xyz = linear @ np.array(to_xyz).T / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = f.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@pytest.mark.parametrize("plate", TEXT_PLATES, ids=lambda plate: plate.name)
def test_axes_and_color_bars_are_named(plate):
    figure = plate.draw(CASES["short"])
    named = {ax.get_xlabel() or ax.get_ylabel() for ax in figure.axes}
    named |= {figure.get_supxlabel(), figure.get_supylabel()}
    assert any(named)
    bars = [ax for ax in figure.axes if ax.get_label() == "<colorbar>"]
    assert all(ax.get_ylabel() for ax in bars)
    images = any(ax.get_images() for ax in figure.axes)
    assert bool(bars) >= images


def test_token_labels_do_not_overlap():
    figure = draw_attention_maps(CASES["long"])
    draw_png(figure)  # places the labels
    for ax in figure.axes:
        boxes = [t.get_window_extent() for t in ax.get_xticklabels() if t.get_text()]
        assert all(a.x1 <= b.x0 + 1 for a, b in zip(boxes, boxes[1:], strict=False))


def test_depth_overview_has_every_layer():
    figure = draw_attention_depth(CASES["long"])
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert [t for t in titles if t.startswith("layer")] == [
        f"layer {k}{' •' if k in (0, 19) else ''}" for k in range(20)
    ]


def test_drivers_of_a_long_text_are_those_that_were_computed():
    few = dataclasses.replace(CASES["long"], left_out=CASES["long"].left_out[-20:])
    ax = draw_drivers(few).axes[-1]
    assert ax.get_xlim() == (316 - 0.6, 342 - 0.4)
    assert len(ax.patches) == 342 - 316
    assert "last 26 of 342" in draw_drivers(few).axes[0].get_title(loc="left")


def test_dollar_signs_are_no_formula():
    figure = draw_attention_maps(made_up("$a$", 1))
    draw_png(figure)
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels == ["$", "a", "$"]


def test_plates_need_their_numbers():
    without = dataclasses.replace(CASES["short"], attention=None, jacobian=None)
    names = [plate.name for plate in text_plates_of(without)]
    assert names == ["predictions", "drivers", "last_token_attention", "token_norms"]
    with pytest.raises(ValueError, match="matrices=True"):
        draw_attention_maps(without)
    with pytest.raises(ValueError, match="jacobian=True"):
        draw_jacobian_norms(without)


def test_letters_without_glyphs_become_code_points():
    assert drawable("a\U0010fffd") == "a‹10FFFD›"
    assert drawable("e\u0301") == "é"
    assert drawable("\u0301") == "‹0301›"
    assert drawable("\U0010fffd\u0301") == "‹10FFFD+›"


@pytest.mark.parametrize("mark", [*BLANKS.values(), *"…‹›•→", *"0123456789+\\"])
def test_every_mark_is_in_the_fonts_of_matplotlib(mark):
    own = Path(get_data_path(), "fonts", "ttf")
    for name in ("DejaVuSansMono.ttf", "DejaVuSans.ttf"):
        font = get_font(str(own / name))
        assert font.get_char_index(ord(mark)), f"{mark} is not in {name}"
    assert drawable(mark) == mark


def test_fonts_installed_since_matplotlib_looked_are_found(tmp_path, monkeypatch):
    """Its list of fonts is kept in a file that may be older than a font."""
    own = Path(get_data_path(), "fonts", "ttf", "DejaVuSerif.ttf")
    shutil.copy(own, tmp_path / "new.ttf")
    manager = fonts.font_manager.fontManager
    stale = [font for font in manager.ttflist if font.name.startswith("DejaVu Sans")]
    monkeypatch.setattr(manager, "ttflist", stale)
    monkeypatch.setattr(
        fonts.font_manager, "findSystemFonts", lambda: [str(tmp_path / "new.ttf")]
    )
    fonts.font_files.cache_clear()
    try:
        assert fonts.font_files()["DejaVu Serif"] == str(tmp_path / "new.ttf")
    finally:
        fonts.font_files.cache_clear()


@pytest.mark.skipif(not fonts.SHAPES_TEXT, reason="this matplotlib does not turn text")
def test_matplotlib_turns_right_to_left_itself():
    assert drawable("שלום") == "שלום"


def test_right_to_left_is_turned_for_matplotlib(monkeypatch):
    monkeypatch.setattr(fonts, "SHAPES_TEXT", False)
    assert drawable("a שלום b") == "a םולש b"


def test_characters_of_several_bytes_have_one_tick():
    figure = draw_attention_maps(made_up("é中e\u0301x", 1))
    draw_png(figure)
    ax = figure.axes[0]
    labels = [text.get_text() for text in ax.get_xticklabels()]
    assert labels == ["é", drawable("中"), "é", "x"]
    assert ax.get_xticks().tolist() == [0.5, 3, 6, 8]


def test_labels_are_thinned_out():
    assert label_step(10, 4.0, 7.0) == 1
    assert label_step(300, 4.0, 7.0) > 5


@pytest.mark.parametrize(
    "values", [[0.0], [-2.0, 1e-3, 0.1], [4.0, 3.9, 0.1, 0.2, -0.1], [1.0, 1.0]]
)
def test_signed_scale_reaches_as_far_as_the_values(values):
    """No value is cut off, and small ones keep their share of the colours."""
    scale = canvas.signed_scale(np.array(values))
    shares = np.asarray(scale(values))
    assert scale(0.0) == pytest.approx(0.5) and shares.min() >= 0 and shares.max() <= 1
    order = np.argsort(values)
    distinct = np.diff(np.array(values)[order]) > 0
    assert (np.diff(shares[order])[distinct] > 0).all()
    middle, most = np.median(np.abs(values)), np.abs(values).max()
    if middle < 0.3 * most:
        assert scale(middle) == pytest.approx(0.5 + 0.3 / 2, abs=1e-6)


def test_a_layer_that_does_most_keeps_its_differences():
    growth = np.full((6, 50), 0.3)
    growth[0] = np.linspace(3.0, 4.0, 50)
    shares = np.asarray(canvas.signed_scale(growth)(growth))
    assert shares[0, 0] < 0.95 and shares[0, -1] == 1 and shares[1, 0] < 0.7


@pytest.mark.parametrize("values", [[0.0], [0.0, 2.0], [3.0, 3.0], [1e-9, 1.0]])
def test_log_scale_has_width(values):
    scale = log_scale(np.array(values), 3.0)
    assert scale.vmin is not None and scale.vmax is not None
    assert 0 < scale.vmin < scale.vmax
    assert scale.vmax / scale.vmin <= 1001
